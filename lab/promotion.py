"""What a failover without a proof does: a primary dies, and a replica that lacks its last commits takes its place.

Only an experiment's own writes are lost: while there is something to lose the shard's gate is shut, by which the
service's writes wait, or are refused, before they have done anything (docs/failover.md). An experiment writes past it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

from psycopg.sql import SQL, Literal

from lab.ground import Ground
from lab.servers import Servers, wait_for

# The gate opens by itself, should nobody be promoted and nobody be left to open it.
_SHUT_GATE = """
INSERT INTO closed_timelines (timeline, until) VALUES (wal_timeline(), clock_timestamp() + interval '30 s')
ON CONFLICT (timeline) DO UPDATE SET until = excluded.until
"""
_OPEN_GATE = "DELETE FROM closed_timelines WHERE timeline = wal_timeline()"
# What a failover or a person has set; where there is nothing, the configuration's own value holds.
_ALTERED = """
SELECT setting FROM pg_file_settings
WHERE name = 'primary_conninfo' AND sourcefile LIKE '%postgresql.auto.conf'
"""

# The mark by which `flask shards failover` knows what a run that was killed has left (commands/failover_upstream.py).
_UNDER_WAY = "SELECT current_setting('primary_conninfo') LIKE '%failover-under-way%'"


def breakable_shard(ground: Ground) -> str:
    """The last one: where there are several, not the one that holds the catalog. Raises `SystemExit` where it has not
    two replicas: one to confirm commits, and one that has not heard of them."""
    shard = ground.servers.shards[-1]
    if len(ground.servers.replicas(shard)) < 2:  # noqa: PLR2004
        raise SystemExit(f"{shard} has no two replicas")
    return shard


def mend_at_the_end(ground: Ground, shard: str) -> None:
    """However it ends: every node runs and follows, and the primary is the node that it was at first."""
    ground.undo.callback(_restore, ground.servers, shard, _first_primary(ground, shard))


def shut_gate(ground: Ground, shard: str) -> None:
    """Let no write of the service begin on the timeline that is about to end, and wait for those under way."""
    with ground.connect(shard) as connection, connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('closed_timelines'))")
        connection.execute(_SHUT_GATE)


def cut_off(ground: Ground, node: str) -> Callable[[], None]:
    """Have a replica hear no more of the primary, as if the network between them were gone; what brings it back."""
    servers = ground.servers
    altered = servers.sql(node, _ALTERED)
    reconnect = partial(_follow, servers, node, altered[0][0] if altered else None)
    ground.undo.callback(reconnect)
    _follow(servers, node, "")
    wait_for(lambda: not servers.sql(node, "SELECT pid FROM pg_stat_wal_receiver"), f"{node} is cut off")
    return reconnect


def promote(servers: Servers, node: str) -> None:
    """This one, whatever the others have."""
    servers.sql(node, "SELECT pg_promote()")


def heal(servers: Servers, shard: str) -> None:
    """Every node runs and follows the primary; without one, the replica that has most becomes it."""
    if not _has_settled(servers, shard):
        servers.fail_over(shard)
    servers.await_whole(shard)


def _has_settled(servers: Servers, shard: str) -> bool:
    """Whether there is a primary, and no failover that was stopped half-way."""
    try:
        return servers.sql(servers.primary(shard), _UNDER_WAY) == [(False,)]
    except SystemExit:
        return False


def _restore(servers: Servers, shard: str, primary: str) -> None:
    heal(servers, shard)
    if servers.primary(shard) != primary:
        servers.fail_over(shard, to=primary)
        servers.await_whole(shard)
    servers.sql(primary, _OPEN_GATE)


@cache
def _first_primary(ground: Ground, shard: str) -> str:
    return ground.primary(shard)


def _follow(servers: Servers, node: str, conninfo: str | None) -> None:
    """None: as its configuration says."""
    change = SQL("RESET primary_conninfo")
    if conninfo is not None:
        change = SQL("SET primary_conninfo = {}").format(Literal(conninfo))  # type: ignore[assignment]
    servers.insist(node, SQL("ALTER SYSTEM {}").format(change).as_string(None))
    servers.insist(node, "SELECT pg_reload_conf()")
