"""`flask shards add` and `flask shards remove`: the ring gains a shard, or loses one, while it is used.

    newcomers     whether servers are fit to become a shard
    embedded      the embedded cluster, which makes and deletes servers

docs/growing.md says what is done in which order, and what a run leaves that was killed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

import click
import psycopg

from commands.cluster import Cluster, open_cluster
from commands.embedded import Embedded, embedded_cluster
from commands.moves import driven
from commands.newcomers import addresses, examine, unconfirmed
from commands.relocate import count_rows, pace_options, raise_for_failed, relocate
from commands.terminal import LINE_SECONDS, Failure, plain_errors
from errors import Conflict, NotFound
from moves.process import MoverProcess
from operations.growth import check_may_leave, forget_shard, join_ring, leave_ring, stores_to_move
from operations.placement import one_at_a_time
from operations.rebalance import Transfer
from operations.relocation import Pace
from pools.node import Node
from routing.catalog import NewShard
from routing.shard_map import ShardMap
from sql import MIGRATIONS, query
from sql.drift import drift
from sql.migrate import Target, migrate

# What the catalog takes for a shard's, with a node's letter behind it.
_NAME = re.compile(r"[a-z][a-z0-9-]{0,60}")
_LOOK_SECONDS = 0.2
# A worker lets go of a shard with its next look at the catalog, and one that is frozen is replaced after a minute.
_LET_GO_SECONDS = 90.0
_SYSTEM_IDENTIFIER = "SELECT system_identifier FROM pg_control_system()"
# The service names its connections worker/pool.
_USERS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND application_name LIKE '%/%'
"""


@click.command("add")
@click.argument("name")
@click.option(
    "--node",
    "dsns",
    multiple=True,
    metavar="DSN",
    help="A server of the shard, such as 'host=db7 port=5432'; once for each. Role and password are the settings'.",
)
@plain_errors
def add_command(name: str, dsns: tuple[str, ...]) -> None:
    """Have the shard NAME join the ring, live. It gets its share; stores that live elsewhere stay there for now.

    Without --node the embedded cluster makes and starts a primary and its replicas. With it they are there already:
    one primary and its streaming replicas, with nobody's data. They are checked, migrated, and compared with the other
    shards before anything is sent there. Killed, it is finished by running it again. Then: flask shards rebalance.
    """
    if not _NAME.fullmatch(name):
        raise Failure(f"{name} cannot be a shard's name: small letters, digits and hyphens, a letter first")
    servers = addresses(dsns)
    cluster = open_cluster()
    with one_at_a_time(cluster.catalog):
        shard_map = cluster.catalog.load().map
        nodes = _known(shard_map, name)
        if not nodes:
            nodes = examine(cluster, shard_map, name, servers or _made(cluster, shard_map, name))
            if unconfirmed(cluster, nodes):
                click.echo(
                    f"{nodes[0].name} does not wait for its replicas: synchronous_standby_names is empty",
                    err=True,
                )
        elif servers:
            raise Failure(f"{name} is leaving the ring, with its own nodes: add it without --node to keep it")
        stay = _join(cluster, shard_map, name, nodes)
    share = cluster.catalog.load().map.share(name)
    click.echo(f"{name} ({', '.join(node.name for node in nodes)}) owns {share:.1%} of the ring.")
    click.echo(f"{_counted(stay)} to move there: flask shards rebalance" if stay else "No store has to move.")


def _counted(stores: int) -> str:
    return "1 store is" if stores == 1 else f"{stores:,} stores are"


def _known(shard_map: ShardMap, name: str) -> list[Node]:
    """The nodes of a shard that is leaving, and is to stay. Raises `Failure` where it is there for good."""
    if all(shard.name != name for shard in shard_map.shards):
        return []
    if shard_map.share(name) > 0:
        raise Failure(f"{name} is a shard already")
    return [node for node in shard_map.nodes if node.shard == name]


def _made(cluster: Cluster, shard_map: ShardMap, name: str) -> list[tuple[str, int]]:
    embedded = embedded_cluster(cluster.settings, shard_map)
    if embedded is None:
        raise Failure("no embedded cluster (make up) runs that could make servers: name them with --node")
    click.echo(f"making the servers of {name}", err=True)
    return embedded.add(name)


def _join(cluster: Cluster, shard_map: ShardMap, name: str, nodes: list[Node]) -> int:
    """Migrate, compare, and only then let it in; the number of stores that are to move."""
    new = Target(name, cluster.group_dsn(nodes))
    others = [shard.name for shard in shard_map.shards if shard.name != name]
    with cluster.without_moves():
        (outcome,) = migrate([new], MIGRATIONS, report=lambda line: click.echo(line, err=True))
        if outcome.error:
            raise Failure(f"{name} is not migrated: {outcome.error}")
        targets = [Target(other, cluster.shard_dsn(shard_map, other)) for other in others]
        if found := drift([*targets, new], MIGRATIONS):
            raise Failure(f"{name} cannot join before all shards' schemas are the same: {'; '.join(found)}")

        def stores_of(shard: str) -> Sequence[UUID]:
            return cluster.stores_at(new.dsn if shard == name else cluster.shard_dsn(shard_map, shard))

        return join_ring(cluster.catalog, NewShard(name, 1.0, nodes), stores_of)


@click.command("remove")
@click.argument("name")
@pace_options
@plain_errors
def remove_command(name: str, pace: Pace) -> None:
    """Have the shard NAME leave the ring, live: its stores move to the others, then it is forgotten.

    New stores go elsewhere from the beginning. Ranges and pins that lead there are given up: the ring decides. The
    embedded cluster then stops its servers and deletes their data. Stopped or killed, it goes on when it is run again;
    flask shards add keeps the shard instead. Refused for the first shard and the one with the catalog.
    """
    cluster = open_cluster()
    with one_at_a_time(cluster.catalog):
        shard_map, flags = cluster.catalog.load()
        embedded = embedded_cluster(cluster.settings, shard_map)
        nodes = [node for node in shard_map.nodes if node.shard == name]
        try:
            check_may_leave(shard_map, name, sharding=flags.sharding)
        except NotFound:
            # Killed behind the last change of the catalog it would have left servers.
            if embedded is None or embedded.remove(name) is not None:
                raise
            return
        _refuse_with_catalog(cluster, shard_map, name)
        try:
            moved = _leave(cluster, shard_map, name, pace)
        except KeyboardInterrupt:
            raise Failure(
                f"stopped: {name} takes no new stores, and what is on the move goes on."
                f" Go on with flask shards remove {name}, or keep it with flask shards add {name}"
            ) from None
        click.echo(f"{name} has left the ring: {moved} stores moved.")
        _stop_servers(cluster, embedded, name, nodes)


def _refuse_with_catalog(cluster: Cluster, shard_map: ShardMap, name: str) -> None:
    with cluster.catalog.connect() as connection:
        catalog = connection.execute(_SYSTEM_IDENTIFIER).fetchone()
    with psycopg.connect(cluster.shard_dsn(shard_map, name), autocommit=True) as shard:
        if shard.execute(_SYSTEM_IDENTIFIER).fetchone() == catalog:
            raise Failure(f"{name} cannot be removed: its servers hold the catalog")


def _leave(cluster: Cluster, shard_map: ShardMap, name: str, pace: Pace) -> int:
    """Until the map has forgotten it; how many stores moved."""

    def stores_of(shard: str) -> Sequence[UUID]:
        return cluster.stores_of(shard_map, shard)

    for part in shard_map.ranges:
        if part.shard == name:
            click.echo(f"the range {part.low} to {part.high} is given up: the ring decides there", err=True)
    leave_ring(cluster.catalog, name, stores_of)
    moved = 0
    with driven(cluster) as process:
        while True:
            moved += _empty(cluster, process, name, pace)
            _await_tidy(cluster, process, name)
            try:
                forget_shard(cluster.catalog, name, stores_of)
            except Conflict:
                if not _is_empty(cluster, name, stores_of):
                    continue  # somebody has moved or pinned one there meanwhile
                raise
            return moved


def _empty(cluster: Cluster, process: MoverProcess, name: str, pace: Pace) -> int:
    """Until no store lives there any more; how many have moved."""
    moved = 0
    while True:
        shard_map = cluster.catalog.load().map
        left = stores_to_move(shard_map, name, cluster.stores_of(shard_map, name))
        if not left:
            return moved
        rows = count_rows(cluster, shard_map, [name])
        transfers = [
            Transfer(store, name, shard_map.unpinned(store)[0], rows.get(store, 1)) for store in left
        ]
        relocation = relocate(cluster, process, f"Emptying {name}", transfers, pace)
        moved += len(relocation.done)
        raise_for_failed(relocation)


def _is_empty(cluster: Cluster, name: str, stores_of: Callable[[str], Sequence[UUID]]) -> bool:
    return not stores_to_move(cluster.catalog.load().map, name, stores_of(name)) and not _moving(
        cluster, name
    )


def _await_tidy(cluster: Cluster, process: MoverProcess, name: str) -> None:
    """Until no move has anything on the shard any more, as while one can still be undone."""
    with _said_now_and_then() as say:
        while moving := _moving(cluster, name):
            process.look()
            say(f"waits for {moving} moves that can still be undone, or are being tidied up")
            time.sleep(_LOOK_SECONDS)


def _moving(cluster: Cluster, name: str) -> int:
    with cluster.catalog.connect() as connection:
        row = connection.execute(query("count_untidied_moves").text, {"shard": name}).fetchone()
    return int(row[0]) if row else 0


def _stop_servers(cluster: Cluster, embedded: Embedded | None, name: str, nodes: Sequence[Node]) -> None:
    """Only now: nothing leads there any more, by any map."""
    if embedded is None or not embedded.servers_of(name):
        click.echo(f"Its servers run on: {', '.join(node.name for node in nodes)}.")
        return
    give_up = time.monotonic() + _LET_GO_SECONDS
    with _said_now_and_then() as say:
        while users := sum(_users(cluster, node) for node in nodes):
            if time.monotonic() > give_up:
                raise Failure(
                    f"{users} connections of the service still lead to {name}, whose servers run on: end those"
                    f" workers, then run flask shards remove {name} again"
                )
            say(f"waits for {users} connections of the service to be closed")
            time.sleep(_LOOK_SECONDS)
    if failed := embedded.remove(name):
        raise Failure(f"its servers run on: {failed}")


def _users(cluster: Cluster, node: Node) -> int:
    """How many connections the service has to a node; none to one that is down."""
    try:
        with psycopg.connect(cluster.node_dsn(node), autocommit=True) as connection:
            row = connection.execute(_USERS).fetchone()
    except psycopg.OperationalError:
        return 0
    return int(row[0]) if row else 0


@contextmanager
def _said_now_and_then() -> Iterator[Callable[[str], None]]:
    """Gives the function that says what is waited for: not at once, and every few seconds."""
    due = time.monotonic() + LINE_SECONDS

    def say(line: str) -> None:
        nonlocal due
        if (now := time.monotonic()) >= due:
            due = now + LINE_SECONDS
            click.echo(line, err=True)

    yield say
