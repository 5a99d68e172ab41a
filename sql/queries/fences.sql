-- name: fence_store
-- role: primary
-- returns: one
-- First in every write's transaction: refuses a write that was routed by an older shard map than the store's home
-- here (SE001), and waits for a move that is switching the store; stores_pkey serves it.
SELECT fence_store(%(store_id)s, %(epoch)s);

-- name: enter_gate
-- role: primary
-- returns: one
-- As fence_store, for a write that has no store to fence yet: refused (SE002) while another node is being promoted.
SELECT enter_gate();

-- name: check_lease
-- role: primary
-- returns: one
-- Last in the transaction of a write under a lock: refuses it (SE003) where the lock's lease is over. See the function.
SELECT check_lease(%(timeline)s::integer, %(number)s::bigint, %(lasts_us)s::bigint);

-- name: read_position
-- role: primary
-- returns: one
-- Timeline and flushed position: sent right behind a COMMIT, so that all it wrote lies before.
SELECT wal_timeline(), (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint;

-- name: no_write_in_progress
-- role: primary
-- returns: one
-- Whether no transaction that wrote is under way, waiting for its replica included: none below the snapshot's end is,
-- and none has begun behind it (`age` is the distance to the next transaction's number). Touches no table.
SELECT pg_snapshot_xmin(s.now) = pg_snapshot_xmax(s.now) AND age(pg_snapshot_xmax(s.now)::xid) = 0
FROM (SELECT pg_current_snapshot() AS now) AS s;

-- name: ping
-- role: primary
-- returns: one
-- Whether a server answers at all; touches no table.
SELECT 1;
