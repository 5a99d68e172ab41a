-- Replication, from either end; paste it on a primary or on a replica.
-- 1. On a primary, one row a replica. Good: state streaming, one of them quorum (it confirms commits), replay lag of a
--    few kB. Bad: a replica missing, or replay_lag_bytes that grows: it answers with old rows.
SELECT application_name AS replica, client_addr, state, sync_state,
       pg_wal_lsn_diff(here.lsn, sent_lsn)   AS send_lag_bytes,
       pg_wal_lsn_diff(here.lsn, replay_lsn) AS replay_lag_bytes,
       extract(epoch FROM replay_lag)::numeric(12, 3) AS replay_lag_seconds
FROM pg_stat_replication,
     (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END AS lsn) AS here
ORDER BY application_name;

-- 2. Slots: WAL that this server keeps for somebody. Bad: active is false and kept_bytes grows: the disk fills up.
--    wal_status lost: that replica, or that move of a store, has to begin again.
SELECT slot_name, slot_type, active, wal_status, restart_lsn,
       pg_wal_lsn_diff(here.lsn, restart_lsn) AS kept_bytes, safe_wal_size AS bytes_until_lost
FROM pg_replication_slots,
     (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END AS lsn) AS here
ORDER BY kept_bytes DESC NULLS LAST;

-- 3. This server itself. On a replica, bad: receiver is not streaming, or replay_lag_seconds above a few. A replica that
--    has replayed all it received has no lag, however long ago the last write was.
SELECT CASE WHEN pg_is_in_recovery() THEN 'replica' ELSE 'primary' END AS role,
       (SELECT timeline_id FROM pg_control_checkpoint()) AS timeline,
       (SELECT status || ' from ' || sender_host || ':' || sender_port FROM pg_stat_wal_receiver) AS receiver,
       pg_last_wal_receive_lsn() AS received, pg_last_wal_replay_lsn() AS replayed,
       pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) AS replay_lag_bytes,
       CASE WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
            ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) END::numeric(12, 3)
           AS replay_lag_seconds;
