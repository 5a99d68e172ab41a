-- Replication, from either end; paste it on a primary or on a replica.
-- 1. On a primary, one row a replica. Good: state streaming, one of them quorum (it confirms commits), replay lag of a
--    few kB. Bad: a replica missing, or replay_lag_bytes that grows: it answers with old rows.
SELECT application_name AS replica, client_addr, state, sync_state,
       pg_wal_lsn_diff(here.lsn, sent_lsn)   AS send_lag_bytes,
       pg_wal_lsn_diff(here.lsn, replay_lsn) AS replay_lag_bytes,
       extract(epoch FROM replay_lag)::numeric(12, 3) AS replay_lag_seconds
FROM pg_stat_replication,
     (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END AS lsn) AS here
ORDER BY application_name;

-- 2. Slots: WAL that this server keeps for somebody. Bad: active is false and kept_bytes grows: the disk fills up.
--    wal_status lost: that replica, or that move of a store, has to begin again.
SELECT slot_name, slot_type, active, wal_status, restart_lsn,
       pg_wal_lsn_diff(here.lsn, restart_lsn) AS kept_bytes, safe_wal_size AS bytes_until_lost
FROM pg_replication_slots,
     (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END AS lsn) AS here
ORDER BY kept_bytes DESC NULLS LAST;

-- 3. This server itself; role, timeline and lsn are what flask shards status tells. Of two servers that say primary, the
--    one on the newer timeline is; the other was, up to a failover, and is to come back as a replica. On a replica, bad:
--    receiver is not streaming; receiver_timeline is older than newest_timeline_heard of for more than a moment (it went
--    past the point where the new timeline begins, and cannot follow); replay_lag_seconds above a few. A replica that
--    has replayed all it received has no lag, however long ago the last write was.
SELECT CASE WHEN in_recovery THEN 'replica' ELSE 'primary' END AS role,
       CASE WHEN in_recovery THEN receiver.received_tli
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::integer END AS timeline,
       CASE WHEN in_recovery THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END AS lsn,
       newest_timeline() AS newest_timeline_heard,
       receiver.status || ' from ' || receiver.sender_host || ':' || receiver.sender_port AS receiver,
       receiver.received_tli AS receiver_timeline,
       pg_last_wal_receive_lsn() AS received, pg_last_wal_replay_lsn() AS replayed,
       pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) AS replay_lag_bytes,
       CASE WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
            ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) END::numeric(12, 3)
           AS replay_lag_seconds
FROM pg_is_in_recovery() AS node (in_recovery)
LEFT JOIN pg_stat_wal_receiver AS receiver ON true;

-- 4. The gates of this shard's timelines, which a switchover shuts. Bad: shut on the primary that flask shards status
--    names, while no failover runs: one was killed; the gate opens by itself, and flask shards failover finishes it.
SELECT timeline, until > clock_timestamp() AS shut,
       greatest(extract(epoch FROM until - clock_timestamp()), 0)::numeric(12, 1) AS opens_in_seconds
FROM closed_timelines
ORDER BY timeline;
