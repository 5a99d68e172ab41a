-- What this server does now: statements under way, and long work with how far it is.
-- 1. Statements that run or wait, the longest first. Bad: runs_for above a second for one of the service's (`query` is
--    then its name in sql/queries/); wait_type Lock (locks.sql says for whom); SyncRep in many: no replica confirms
--    (replication.sql); IO in many: the disk is the limit. To end one: SELECT pg_cancel_backend(pid), and where that
--    does nothing pg_terminate_backend(pid).
SELECT pid, application_name, usename AS role, now() - query_start AS runs_for, wait_event_type AS wait_type, wait_event,
       coalesce(substring(query FROM '/\* ([a-z0-9_]+) \*/'), left(regexp_replace(query, '\s+', ' ', 'g'), 60)) AS query
FROM pg_stat_activity
WHERE state IN ('active', 'fastpath function call') AND backend_type = 'client backend' AND pid <> pg_backend_pid()
ORDER BY query_start, pid
LIMIT 30;

-- 2. Long work. Bad: the same figures a minute later; a vacuum whose index_rounds goes above 1 (maintenance_work_mem is
--    too small for the table).
SELECT 'vacuum' AS work, v.pid, v.relid::regclass::text AS relation, v.phase,
       round(100.0 * v.heap_blks_scanned / nullif(v.heap_blks_total, 0), 1) AS percent, v.index_vacuum_count AS index_rounds
FROM pg_stat_progress_vacuum AS v
UNION ALL
SELECT 'create index', i.pid, i.relid::regclass::text, i.phase, round(100.0 * i.blocks_done / nullif(i.blocks_total, 0), 1), NULL
FROM pg_stat_progress_create_index AS i
UNION ALL
SELECT 'copy of this server', b.pid, NULL, b.phase, round(100.0 * b.backup_streamed / nullif(b.backup_total, 0), 1), NULL
FROM pg_stat_progress_basebackup AS b
UNION ALL
SELECT 'COPY', c.pid, nullif(c.relid, 0)::regclass::text, c.command, round(100.0 * c.bytes_processed / nullif(c.bytes_total, 0), 1), NULL
FROM pg_stat_progress_copy AS c
ORDER BY work, pid;

-- 3. This database since its statistics began. Bad: deadlocks above 0 (no two statements of the service take rows in
--    opposite orders); conflicts that rise on a replica (its readers were cancelled so that replay could go on); temp_size
--    that rises (sorts that do not fit in work_mem); commits far below what /metrics counts as writes.
SELECT numbackends AS connections, xact_commit AS commits, xact_rollback AS rollbacks, deadlocks, conflicts,
       pg_size_pretty(temp_bytes) AS temp_size, round(100.0 * blks_hit / nullif(blks_hit + blks_read, 0), 2) AS hit_percent,
       stats_reset
FROM pg_stat_database
WHERE datname = current_database();
