-- name: sample_node
-- role: replica
-- returns: one
-- Where a node stands, whatever its role: in recovery or not, its position (node_position), what it has received, the
-- newest timeline it has heard of where it has no WAL receiver to say which it follows, how old, in seconds, the last
-- transaction is that it replayed, whether commits would wait for a replica, and its clock in microseconds. Touches no
-- table.
SELECT
    here.position[4],
    here.position[1],
    here.position[2],
    (pg_last_wal_receive_lsn() - '0/0'::pg_lsn)::bigint,
    CASE WHEN here.position[1] = 0 THEN newest_timeline() END,
    extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8,
    current_setting('synchronous_standby_names') <> '',
    clock_us()
FROM node_position() AS here (position);

-- name: await_replay
-- role: replica
-- returns: one
-- In front of a read on a replica that is not known to have what the reader must see; see the function.
SELECT await_replay(%(wanted)s, %(patience_ms)s);

-- name: timeline_history
-- role: replica
-- returns: one
-- The positions at which the timelines before this one were left, as PostgreSQL's own file says it.
SELECT timeline_history(%(timeline)s);

-- name: list_rejoining_nodes
-- role: primary
-- returns: many
-- Nodes that are being rewound or copied anew from this primary, by the name of the connection that does it: what the
-- embedded cluster calls it, and whoever else wants it to be seen.
SELECT DISTINCT substr(application_name, 8) FROM pg_stat_activity WHERE application_name LIKE 'rejoin %%';
