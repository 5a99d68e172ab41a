-- name: fence_store
-- role: primary
-- returns: one
-- First in every write's transaction: refuses a write that was routed by an older shard map than the store's home
-- here (SE001), and waits for a move that is switching the store; stores_pkey serves it.
SELECT fence_store(%(store_id)s, %(epoch)s);

-- name: read_position
-- role: primary
-- returns: one
-- Where the log stands and on which timeline: sent right behind a COMMIT, so that all it wrote lies before.
-- The timeline comes from the WAL file's name: after a promotion pg_control_checkpoint() still tells the old one.
SELECT (wal.lsn - '0/0'::pg_lsn)::bigint, substr(pg_walfile_name(wal.lsn), 1, 8)
FROM pg_current_wal_insert_lsn() AS wal (lsn);

-- name: ping
-- role: primary
-- returns: one
-- Whether a server answers at all; touches no table.
SELECT 1;
