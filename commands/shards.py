"""`flask shards status` and `flask shards migrate`; failover, moves and growth have files of their own."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any

import click

from commands.cluster import Cluster, open_cluster
from commands.failover import failover_command
from commands.growth import add_command, remove_command
from commands.moves import move_command, mover_command, undo_command
from commands.observe import Observation, ask_load, observe
from commands.rebalance import rebalance_command
from commands.relocate import gather_command
from commands.routes import drop_range_command, pin_command, ranges_command, set_range_command, unpin_command
from commands.terminal import Failure, plain_errors, print_table
from operations.topology import topology
from routing.catalog import Snapshot
from routing.shard_map import ShardMap
from sql import CATALOG_MIGRATIONS, MIGRATIONS
from sql.drift import drift
from sql.migrate import Outcome, Target, migrate


@click.group("shards")
def shards_group() -> None:
    """The shards, their nodes and their schema."""


for command in (
    add_command,
    remove_command,
    failover_command,
    move_command,
    undo_command,
    rebalance_command,
    ranges_command,
    set_range_command,
    drop_range_command,
    pin_command,
    unpin_command,
    gather_command,
    mover_command,
):
    shards_group.add_command(command)


@shards_group.command("status")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="The document of GET /v1/admin/topology, with each node's timeline, lsn and dsn; a dsn holds a password.",
)
@plain_errors
def status_command(as_json: bool) -> None:
    """Print every node with its role, timeline, LSN, lag and pool, every shard with its stores and share.

    Of two nodes that accept writes, the one on the newer timeline is primary; the other is `unknown`.
    The pool is what the server sees of it: connections, and idle ones. A node that does not answer within a
    few seconds is `unknown`. Then the stores that take most of their shard's time, as all workers have counted them
    lately. Then what there is to say of the schema: migrations that are missing, changes by
    hand, shards that differ. Fails where a shard has no primary.
    """
    cluster = open_cluster()
    snapshot = cluster.snapshot()
    shard_map = snapshot.map
    seen = observe(cluster, shard_map)
    document = _document(cluster, snapshot, seen)
    document["schema"] = _schema_warnings(cluster, shard_map, seen)
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        _print(document, seen)
    orphans = [shard.name for shard in shard_map.shards if seen.primary(shard.name) is None]
    if orphans:
        raise Failure(f"no primary answers on {', '.join(orphans)}")


@shards_group.command("migrate")
@click.option("--dry-run", is_flag=True, help="Say what would be applied, and change nothing.")
@plain_errors
def migrate_command(dry_run: bool) -> None:
    """Apply sql/catalog/ to the catalog, then sql/migrations/ to every shard, all shards side by side.

    Each says what it did. Where one fails the others are finished, and a second run does only what is left. While a
    store is on the move nothing is applied to the shards, and while something is applied no move begins.
    """
    cluster = open_cluster()
    catalog = [Target("catalog", cluster.catalog_dsn())]
    outcomes = migrate(catalog, CATALOG_MIGRATIONS, dry_run=dry_run, report=click.echo)
    if outcomes[0].error and not outcomes[0].already:
        _raise_for_failed(outcomes)  # there is no map that could say where the shards are
    shard_map = cluster.snapshot().map
    shards = [Target(shard.name, cluster.shard_dsn(shard_map, shard.name)) for shard in shard_map.shards]
    pending = not dry_run and any(outcome.applied for outcome in migrate(shards, MIGRATIONS, dry_run=True))
    with cluster.without_moves() if pending else nullcontext():
        outcomes += migrate(shards, MIGRATIONS, dry_run=dry_run, report=click.echo)
    if dry_run:
        for outcome in outcomes:
            if not outcome.applied and not outcome.error:
                click.echo(f"{outcome.target}: nothing to do, {len(outcome.already)} applied earlier")
    _raise_for_failed(outcomes)


def _raise_for_failed(outcomes: list[Outcome]) -> None:
    failed = [outcome for outcome in outcomes if outcome.error]
    if failed:
        reasons = "; ".join(f"{outcome.target}: {outcome.error}" for outcome in failed)
        raise Failure(f"not migrated: {reasons}")


def _schema_warnings(cluster: Cluster, shard_map: ShardMap, seen: Observation) -> list[str]:
    """Of every shard whose primary answers; the others' absence is said elsewhere."""
    found = [(shard.name, seen.primary(shard.name)) for shard in shard_map.shards]
    shards = [Target(name, cluster.node_dsn(primary.node)) for name, primary in found if primary]
    return drift(shards, MIGRATIONS)


def _document(cluster: Cluster, snapshot: Snapshot, seen: Observation) -> dict[str, Any]:
    shard_map, sharding = snapshot.map, snapshot.flags.sharding
    stores = {shard.name: seen.stores(shard.name) for shard in shard_map.shards}
    load = ask_load(cluster)
    document = topology(shard_map, seen.states(), seen.gauges(), stores, load, sharding=sharding)
    nodes = {node.name: node for node in shard_map.nodes}
    for shard in document["shards"]:
        for node in shard["nodes"]:
            node["timeline"] = seen.looks[node["name"]].timeline
            node["lsn"] = seen.looks[node["name"]].lsn
            node["dsn"] = cluster.psql_url(nodes[node["name"]])
    return document


def _print(document: dict[str, Any], seen: Observation) -> None:
    click.echo(f"Shard map of epoch {document['epoch']}")
    print_table(
        ("shard", "stores", "share"),
        [(s["name"], _or_unknown(s["stores"]), f"{s['share']:.1%}") for s in document["shards"]],
    )
    print_table(
        ("node", "role", "healthy", "timeline", "LSN", "lag bytes", "lag s", "pool", "idle"),
        [_node_row(node) for shard in document["shards"] for node in shard["nodes"]],
    )
    print_table(
        ("store", "shard", "requests/s", "statements/s", "PostgreSQL ms/s", "share of its shard"),
        _hot_rows(document),
    )
    for warning in document["schema"] or ["as the migrations left it"]:
        click.echo(f"schema: {warning}")
    for look in seen.were_primary():
        click.echo(
            f"{look.node.name}: was primary up to a failover; it is to come back as a replica", err=True
        )
    for look in seen.looks.values():
        if look.error:
            click.echo(f"{look.node.name}: {look.error}", err=True)


def _node_row(node: dict[str, Any]) -> tuple[str, ...]:
    lag_seconds = node["replay_lag_seconds"]
    return (
        node["name"],
        node["role"],
        "yes" if node["healthy"] else "no",
        _or_unknown(node["timeline"]),
        _or_unknown(node["lsn"]),
        _or_unknown(node["replay_lag_bytes"]),
        _or_unknown(None if lag_seconds is None else f"{lag_seconds:.1f}"),
        _or_unknown(node["pool"]["size"]),
        _or_unknown(node["pool"]["available"]),
    )


def _hot_rows(document: dict[str, Any]) -> list[tuple[str, ...]]:
    """The stores that take most of their shard's time; nothing where no worker has reported lately."""
    found = [(hot, shard["name"]) for shard in document["shards"] for hot in shard["hot_stores"] or ()]
    found.sort(key=lambda each: -each[0]["postgres_ms_per_second"])
    return [
        (
            hot["store_id"],
            shard,
            f"{hot['requests_per_second']:.1f}",
            f"{hot['statements_per_second']:.1f}",
            f"{hot['postgres_ms_per_second']:.1f}",
            f"{hot['share']:.1%}",
        )
        for hot, shard in found
    ]


def _or_unknown(value: object) -> str:
    return "?" if value is None else str(value)
