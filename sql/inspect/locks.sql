-- Who waits for whom, and who makes everyone wait.
-- 1. One row for each pair of one who waits and one who blocks it. Bad: any row that is still there a second later.
--    A blocker that is "idle in transaction" has forgotten its COMMIT: SELECT pg_terminate_backend(blocker).
SELECT waiting.pid, waiting.application_name, now() - waiting.query_start AS waits_for,
       wanted.locktype, coalesce(wanted.relation::regclass::text, wanted.virtualxid, wanted.transactionid::text) AS what,
       wanted.mode, left(waiting.query, 60) AS query,
       blocking.pid AS blocker, blocking.application_name AS blocker_name, blocking.state AS blocker_state,
       now() - blocking.xact_start AS blocker_since, left(blocking.query, 60) AS blocker_query
FROM pg_stat_activity AS waiting
CROSS JOIN LATERAL unnest(pg_blocking_pids(waiting.pid)) AS by(pid)
JOIN pg_stat_activity AS blocking ON blocking.pid = by.pid
LEFT JOIN pg_locks AS wanted ON wanted.pid = waiting.pid AND NOT wanted.granted
ORDER BY waits_for DESC, waiting.pid;

-- 2. Transactions that are open longest, this one left out. Bad: minutes. Each keeps every row version since it began
--    from being cleaned up, and a migration, or CREATE INDEX CONCURRENTLY, waits for it.
SELECT pid, application_name, state, now() - xact_start AS open_for, wait_event_type, wait_event,
       age(backend_xmin) AS holds_back_transactions, left(query, 60) AS query
FROM pg_stat_activity
WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() AND backend_type = 'client backend'
ORDER BY xact_start
LIMIT 20;

-- 3. Strong locks on tables that somebody holds now. AccessExclusiveLock stops readers too: a migration, or a VACUUM FULL
--    by hand, and it should be gone within a second.
SELECT l.relation::regclass AS relation, l.mode, l.granted, a.pid, a.application_name, now() - a.xact_start AS since
FROM pg_locks AS l
JOIN pg_stat_activity AS a USING (pid)
WHERE l.locktype = 'relation' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
ORDER BY since DESC;
