-- The write-ahead log: what it takes on the disk, who keeps it there, and how often this server writes all pages out.
-- 1. The files. Bad: size far above max_wal_size: somebody keeps them (2). Behind max_slot_wal_keep_size (2 GB in the
--    embedded cluster) a slot is given up, so the disk cannot fill for one.
SELECT count(*) AS files, pg_size_pretty(sum(size)) AS size, min(modification) AS oldest,
       current_setting('max_wal_size') AS max_wal_size, current_setting('wal_keep_size') AS wal_keep_size,
       current_setting('max_slot_wal_keep_size') AS max_slot_wal_keep_size
FROM pg_ls_waldir();

-- 2. Who keeps it: slots, the furthest behind first. Bad: active false and kept that grows. A replica's slot is named
--    after its node; move_... and back_... belong to a move of a store (moves.sql). Of a replica that never comes
--    back: SELECT pg_drop_replication_slot('...').
SELECT slot_name, slot_type, active, wal_status, pg_size_pretty(pg_wal_lsn_diff(here.lsn, restart_lsn)) AS kept,
       pg_size_pretty(safe_wal_size) AS until_it_is_lost, inactive_since
FROM pg_replication_slots,
     (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END AS lsn) AS here
ORDER BY restart_lsn NULLS FIRST;

-- 3. Checkpoints. Bad: requested above timed outside of a bulk load: max_wal_size is too small for what is written.
SELECT num_timed AS timed, num_requested AS requested, restartpoints_done AS restartpoints, write_time::bigint AS write_ms,
       sync_time::bigint AS sync_ms, buffers_written, stats_reset
FROM pg_stat_checkpointer;

-- 4. What was written since the statistics began. Bad: full_pages that are most of records for long: checkpoints follow
--    each other too closely (3). buffers_full that rises: wal_buffers is too small.
SELECT wal_records AS records, wal_fpi AS full_pages, pg_size_pretty(wal_bytes) AS written, wal_buffers_full AS buffers_full,
       stats_reset
FROM pg_stat_wal;
