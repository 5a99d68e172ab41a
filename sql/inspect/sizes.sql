-- What takes the space, and what is only in the way.
-- 1. Tables. Bad: dead_percent above 20 with a last_vacuum long ago (autovacuum does not keep up, or a transaction holds
--    it back: locks.sql); hot_percent of products far below 90 (an order's change of stock then touches its indexes).
--    bytes_per_row that grows while rows stay as they are is bloat.
SELECT t.relname AS "table", pg_size_pretty(pg_total_relation_size(t.relid)) AS total,
       pg_size_pretty(pg_table_size(t.relid)) AS rows_and_toast, pg_size_pretty(pg_indexes_size(t.relid)) AS indexes,
       t.n_live_tup AS rows, pg_relation_size(t.relid) / nullif(t.n_live_tup, 0) AS bytes_per_row,
       t.n_dead_tup AS dead, round(100.0 * t.n_dead_tup / nullif(t.n_live_tup + t.n_dead_tup, 0), 1) AS dead_percent,
       round(100.0 * t.n_tup_hot_upd / nullif(t.n_tup_upd, 0), 1) AS hot_percent,
       greatest(t.last_vacuum, t.last_autovacuum) AS last_vacuum,
       greatest(t.last_analyze, t.last_autoanalyze) AS last_analyze
FROM pg_stat_user_tables AS t
ORDER BY pg_total_relation_size(t.relid) DESC;

-- 2. Indexes. Bad: valid is false (a CREATE INDEX CONCURRENTLY that failed: migrate again); scans is 0 on every node of
--    the shard, replicas included, for an index that is neither unique nor a primary key: each write pays for it.
SELECT s.relname AS "table", s.indexrelname AS index, pg_size_pretty(pg_relation_size(s.indexrelid)) AS size,
       s.idx_scan AS scans, s.last_idx_scan AS last_scan, i.indisunique AS is_unique, i.indisvalid AS valid
FROM pg_stat_user_indexes AS s
JOIN pg_index AS i USING (indexrelid)
ORDER BY pg_relation_size(s.indexrelid) DESC;

-- 3. The whole database, and how far it is from having to freeze its row versions: bad above 1,000,000,000.
SELECT datname AS database, pg_size_pretty(pg_database_size(oid)) AS size, age(datfrozenxid) AS oldest_transaction
FROM pg_database
WHERE datallowconn
ORDER BY pg_database_size(oid) DESC;
