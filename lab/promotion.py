"""What a failover without a proof does: a primary dies, and a replica that lacks its last commits takes its place.

Only an experiment's own writes are lost: while there is something to lose the shard's gate is shut, by which the
service's writes wait, or are refused, before they have done anything (docs/failover.md). An experiment writes past it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial

from psycopg.sql import SQL, Literal

from lab.ground import Ground
from lab.servers import Servers, wait_for

# The gate opens by itself, should nobody be promoted and nobody be left to open it.
_SHUT_GATE = """
INSERT INTO closed_timelines (timeline, until) VALUES (wal_timeline(), clock_timestamp() + interval '30 s')
ON CONFLICT (timeline) DO UPDATE SET until = excluded.until
"""
# Of the timelines that began since: one that has ended needs no gate.
_FORGET_GATES = "DELETE FROM closed_timelines WHERE timeline >= %s"
# What a failover or a person has set; where there is nothing, the configuration's own value holds.
_ALTERED = """
SELECT setting FROM pg_file_settings
WHERE name = 'primary_conninfo' AND sourcefile LIKE '%postgresql.auto.conf'
"""

# The mark by which `flask shards failover` knows what a run that was killed has left (commands/failover_upstream.py).
_UNDER_WAY = "SELECT current_setting('primary_conninfo') LIKE '%failover-under-way%'"

_HEARS_NOBODY = """
SELECT current_setting('primary_conninfo') = '' AND NOT EXISTS (SELECT FROM pg_stat_wal_receiver)
"""


def breakable_shard(ground: Ground) -> str:
    """The last one: where there are several, not the one that holds the catalog. Raises `SystemExit` where it has not
    two replicas: one to confirm commits, and one that has not heard of them."""
    shard = ground.servers.shards[-1]
    if len(ground.servers.replicas(shard)) < 2:  # noqa: PLR2004
        raise SystemExit(f"{shard} has no two replicas")
    return shard


def mend_at_the_end(ground: Ground, shard: str) -> None:
    """However it ends: every node runs and follows, and the primary is the node that it was at first."""
    ground.undo.callback(_restore, ground.servers, shard, _at_first(ground, shard))


def shut_gate(ground: Ground, shard: str) -> None:
    """Let no write of the service begin on the timeline that is about to end, and wait for those under way."""
    with ground.connect(shard) as connection, connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('closed_timelines'))")
        connection.execute(_SHUT_GATE)


def cut_off(ground: Ground, node: str) -> Callable[[], None]:
    """Have a replica hear no more of the primary, as if the network between them were gone; what brings it back."""
    servers = ground.servers
    reconnect = partial(_follow, servers, node, _altered(servers, node))
    ground.undo.callback(reconnect)
    _follow(servers, node, "")
    wait_for(lambda: servers.insist(node, _HEARS_NOBODY) == [(True,)], f"{node} is cut off")
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
        return servers.insist(servers.primary(shard), _UNDER_WAY) == [(False,)]
    except SystemExit:
        return False


@dataclass(frozen=True, slots=True)
class _Roles:
    """Who was primary of a shard, on which timeline, and what was set on each node about whom to follow."""

    primary: str
    timeline: int
    altered: Mapping[str, str | None]


@cache
def _at_first(ground: Ground, shard: str) -> _Roles:
    """As it was before the experiment's first failover."""
    primary = ground.primary(shard)
    ((timeline,),) = ground.servers.sql(primary, "SELECT wal_timeline()")
    altered = {node: _altered(ground.servers, node) for node in ground.servers.of_shard(shard)}
    return _Roles(primary, timeline, altered)


def _restore(servers: Servers, shard: str, roles: _Roles) -> None:
    heal(servers, shard)
    if servers.primary(shard) != roles.primary:
        servers.fail_over(shard, to=roles.primary)
        servers.await_whole(shard)
    for node, altered in roles.altered.items():
        if _altered(servers, node) != altered:
            _follow(servers, node, altered)
    servers.sql(roles.primary, _FORGET_GATES, roles.timeline)
    servers.await_whole(shard)


def _altered(servers: Servers, node: str) -> str | None:
    rows = servers.insist(node, _ALTERED)
    return str(rows[0][0]) if rows else None


def _follow(servers: Servers, node: str, conninfo: str | None) -> None:
    """None: as its configuration says."""
    change = SQL("RESET primary_conninfo")
    if conninfo is not None:
        change = SQL("SET primary_conninfo = {}").format(Literal(conninfo))  # type: ignore[assignment]
    servers.insist(node, SQL("ALTER SYSTEM {}").format(change).as_string(None))
    servers.insist(node, "SELECT pg_reload_conf()")
