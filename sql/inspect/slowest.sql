-- Where the database's time goes, since pg_stat_statements_reset(). On a replica too: each node counts for itself.
-- `query` is the name in sql/queries/, where the statement is one of the service's own.
-- 1. By total time: what to make faster first. Bad: mean_ms above 1 for anything on the hot path; rows_per_call or
--    blocks_per_call far above what the answer needs (a missing index); hit_percent below 99 (it reads the disk).
SELECT coalesce(substring(s.query FROM '/\* ([a-z0-9_]+) \*/'), left(regexp_replace(s.query, '\s+', ' ', 'g'), 60)) AS query,
       r.rolname AS role, s.calls, s.total_exec_time::numeric(14, 1) AS total_ms, s.mean_exec_time::numeric(10, 3) AS mean_ms,
       s.max_exec_time::numeric(10, 1) AS max_ms,
       round((100 * s.total_exec_time / nullif(sum(s.total_exec_time) OVER (), 0))::numeric, 1) AS time_percent,
       round(s.rows::numeric / nullif(s.calls, 0), 1) AS rows_per_call,
       round((s.shared_blks_hit + s.shared_blks_read)::numeric / nullif(s.calls, 0), 1) AS blocks_per_call,
       round(100.0 * s.shared_blks_hit / nullif(s.shared_blks_hit + s.shared_blks_read, 0), 1) AS hit_percent
FROM pg_stat_statements AS s
JOIN pg_database AS d ON d.oid = s.dbid
LEFT JOIN pg_roles AS r ON r.oid = s.userid
WHERE d.datname = current_database()
ORDER BY s.total_exec_time DESC
LIMIT 20;

-- 2. By WAL: what makes replicas lag and disks fill. Bad: full_pages that are most of it right after a checkpoint.
SELECT coalesce(substring(s.query FROM '/\* ([a-z0-9_]+) \*/'), left(regexp_replace(s.query, '\s+', ' ', 'g'), 60)) AS query,
       s.calls, pg_size_pretty(s.wal_bytes) AS wal, round(s.wal_bytes / nullif(s.calls, 0)) AS wal_bytes_per_call,
       s.wal_fpi AS full_pages
FROM pg_stat_statements AS s
JOIN pg_database AS d ON d.oid = s.dbid
WHERE d.datname = current_database() AND s.wal_bytes > 0
ORDER BY s.wal_bytes DESC
LIMIT 10;
