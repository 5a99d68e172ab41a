"""`flask shards status`"""

from __future__ import annotations

import json
from typing import Any

import click

from commands.cluster import Cluster, open_cluster
from commands.observe import Observation, observe
from commands.terminal import plain_errors, print_table
from operations.topology import topology
from routing.shard_map import ShardMap


@click.group("shards")
def shards_group() -> None:
    """The shards, their nodes and their schema."""


@shards_group.command("status")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="The document of GET /v1/admin/topology, with each node's lsn and dsn; a dsn holds a password.",
)
@plain_errors
def status_command(as_json: bool) -> None:
    """Print every node with its role, LSN, lag and pool, every shard with its stores and share.

    The pool is what the server sees of it: connections, and idle ones. A node that does not answer within a
    few seconds is `unknown`. Fails where a shard has no primary.
    """
    cluster = open_cluster()
    shard_map = cluster.snapshot().map
    seen = observe(cluster, shard_map)
    document = _document(cluster, shard_map, seen)
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        _print(document, seen)
    orphans = [shard.name for shard in shard_map.shards if not seen.primaries(shard.name)]
    if orphans:
        raise click.ClickException(f"no primary answers on {', '.join(orphans)}")


def _document(cluster: Cluster, shard_map: ShardMap, seen: Observation) -> dict[str, Any]:
    stores = {shard.name: seen.stores(shard.name) for shard in shard_map.shards}
    document = topology(shard_map, seen.states(), seen.gauges(), stores)
    nodes = {node.name: node for node in shard_map.nodes}
    for shard in document["shards"]:
        for node in shard["nodes"]:
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
        ("node", "role", "healthy", "LSN", "lag bytes", "lag s", "pool", "idle"),
        [_node_row(node) for shard in document["shards"] for node in shard["nodes"]],
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
        _or_unknown(node["lsn"]),
        _or_unknown(node["replay_lag_bytes"]),
        _or_unknown(None if lag_seconds is None else f"{lag_seconds:.1f}"),
        _or_unknown(node["pool"]["size"]),
        _or_unknown(node["pool"]["available"]),
    )


def _or_unknown(value: object) -> str:
    return "?" if value is None else str(value)
