-- Connections, by who holds them: application_name says which worker and which pool (docs/pools.md has the arithmetic).
-- 1. One row a pool and state. Good: nearly all idle. Bad: "idle in transaction" older than a second (a transaction
--    that somebody forgot); active in as many as the pool has (it is exhausted: slowest.sql, locks.sql).
SELECT application_name, usename AS role, datname AS database, coalesce(state, backend_type) AS state, count(*) AS connections,
       max(now() - state_change) AS longest_in_state, min(backend_start) AS oldest_connection,
       string_agg(DISTINCT wait_event, ', ') FILTER (WHERE state = 'active') AS waits_for
FROM pg_stat_activity
WHERE backend_type IN ('client backend', 'walsender')
GROUP BY application_name, usename, datname, coalesce(state, backend_type)
ORDER BY connections DESC, application_name;

-- 2. How much room is left. Bad: free near 0: the next worker is refused. SyncRep waits are commits that no replica
--    has confirmed yet: more than a few, and the replicas are away or slow (replication.sql).
SELECT count(*) AS used, current_setting('max_connections')::int AS "limit",
       current_setting('max_connections')::int - count(*) AS free,
       count(*) FILTER (WHERE wait_event = 'SyncRep') AS waiting_for_a_replica
FROM pg_stat_activity
WHERE backend_type IN ('client backend', 'walsender');
