"""What one node of a shard says of itself in a failover, in one statement."""

from __future__ import annotations

from dataclasses import dataclass

from commands import failover_upstream as upstream
from pools.node import Node

# In one statement, so that it is one moment; position before timeline, as in node_position(). A replica's timeline is
# that of its newest segment of WAL: the history files it has heard of may be of timelines that it cannot follow, and
# the WAL receiver, which could tell, is gone with its primary.
# The WAL receiver is asked for the first time when a starting replica has replayed all that it had.
LOOK = """
SELECT in_recovery,
       (SELECT system_identifier FROM pg_control_system()) AS system_identifier,
       (CASE WHEN in_recovery THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
             ELSE pg_current_wal_flush_lsn() END - '0/0'::pg_lsn)::bigint AS written,
       (coalesce(pg_last_wal_replay_lsn(), '0/0') - '0/0'::pg_lsn)::bigint AS replayed,
       pg_last_wal_receive_lsn() IS NOT NULL AS counted,
       ('x' || CASE WHEN in_recovery
                    THEN (SELECT max(left(name, 8)) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$')
                    ELSE left(pg_walfile_name(pg_current_wal_flush_lsn()), 8) END)::bit(32)::integer AS timeline,
       EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'walreceiver') AS receives,
       receiver.pid AS receiver,
       receiver.sender_host || ':' || receiver.sender_port AS sender,
       receiver.status AS receiver_status,
       receiver.received_tli AS received_timeline,
       (pg_stat_file('promote', true)).size IS NOT NULL AS promoting,
       CASE WHEN in_recovery THEN pg_is_wal_replay_paused() ELSE false END AS paused,
       current_setting('cluster_name') AS cluster_name,
       current_setting('synchronous_standby_names') AS synchronous_standby_names,
       current_setting('primary_slot_name') AS slot,
       current_setting('primary_conninfo') AS conninfo,
       (SELECT sourcefile FROM pg_settings WHERE name = 'primary_conninfo') AS conninfo_file
FROM pg_is_in_recovery() AS role (in_recovery)
LEFT JOIN pg_stat_wal_receiver AS receiver ON true
"""


@dataclass(frozen=True, slots=True)
class Look:
    """What a node said of itself, as of one moment. Positions are bytes; those of a primary are what it flushed."""

    in_recovery: bool
    system_identifier: int
    written: int
    replayed: int
    counted: bool
    timeline: int
    receives: bool
    receiver: int | None
    sender: str | None
    receiver_status: str | None
    received_timeline: int | None
    promoting: bool
    paused: bool
    cluster_name: str
    synchronous_standby_names: str
    slot: str
    conninfo: str
    conninfo_file: str | None

    @property
    def marked(self) -> bool:
        """Whether a failover that did not finish has had its hand on it."""
        return upstream.is_marked(self.conninfo)

    def has_replayed(self, position: int) -> bool:
        return min(self.written, self.replayed) >= position

    def follows(self, node: Node) -> bool:
        """Whether it streams from this node, on whatever timeline."""
        return self.receiver_status == "streaming" and self.sender == f"{node.host}:{node.port}"
