-- Stores on their way from or to this shard: what a move has made here (docs/moves.md). Who drives it stands in the catalog.
-- 1. One row a store. Bad: blocked with until in the past, or without until for more than some seconds: its writers wait,
--    or were told 503 (docs/operations.md, "A move is stuck"). arriving or departed with nothing in (2) to (4): the move
--    is over, and its rows still go.
SELECT m.id AS store_id, s.name AS store, m.move_id, m.standing, m.until,
       m.until > clock_timestamp() AS writes_wait, m.term AS mover
FROM moving_stores AS m
LEFT JOIN stores AS s ON s.store_id = m.id
ORDER BY m.id;

-- 2. Slots of moves: what this shard keeps for the other. Bad: active false for more than some seconds; kept_bytes that
--    grows; wal_status lost: the copy begins again.
SELECT slot_name, active, active_pid, wal_status, pg_wal_lsn_diff(here.lsn, confirmed_flush_lsn) AS lag_bytes,
       pg_wal_lsn_diff(here.lsn, restart_lsn) AS kept_bytes, inactive_since
FROM pg_replication_slots,
     (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END AS lsn) AS here
WHERE slot_type = 'logical'
ORDER BY slot_name;

-- 3. Publications: whose rows go out. Bad: one without a slot of its name in (2), and no row in (1).
SELECT p.pubname AS publication, count(t.tablename) AS tables, min(t.rowfilter) FILTER (WHERE t.tablename = 'products') AS rows_that_go
FROM pg_publication AS p
LEFT JOIN pg_publication_tables AS t USING (pubname)
GROUP BY p.pubname
ORDER BY p.pubname;

-- 4. Subscriptions: what comes in. Bad: enabled without a worker; errors above 0 that rise: a row cannot be applied, and
--    the server's log says which. One that is not enabled is the way back, until the switch.
SELECT s.subname AS subscription, s.subenabled AS enabled, a.pid AS worker, a.received_lsn, a.latest_end_time AS heard,
       e.apply_error_count AS errors
FROM pg_subscription AS s
LEFT JOIN pg_stat_subscription AS a ON a.subid = s.oid AND a.relid IS NULL
LEFT JOIN pg_stat_subscription_stats AS e ON e.subid = s.oid
WHERE s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
ORDER BY s.subname;
