-- lock: none that anyone waits for: new tables, a new function, and fence_store's row in pg_proc.
-- What a shard knows of the stores that come and go: docs/decisions/0016-moves.md.

-- One row a store on the move, on both shards. The column is not called store_id, and with purpose: these rows are the
-- shard's own, and do not move. `term` is the mover's: an older one's statements are refused (moves/side.py).
--
--   home       it lives here, and writes pass
--   blocked    it lives here, and writes wait, in the worker, until it does not; past `until` they pass again
--   arriving   it is being copied here: nothing is written but by replication
--   departed   it lives elsewhere: its row in `stores` is gone, the others follow
CREATE TABLE moving_stores (
    id       uuid PRIMARY KEY,
    move_id  uuid NOT NULL,
    term     bigint NOT NULL,
    standing text NOT NULL CHECK (standing IN ('home', 'blocked', 'arriving', 'departed')),
    until    timestamptz
);

-- One row a move, replicated with the store's: where it has arrived, so has everything that was committed before.
CREATE TABLE move_marks (
    id   uuid PRIMARY KEY,
    mark bigint NOT NULL
);

-- Raises SE004 while the store's writes wait for a switch. Nothing has been done then.
CREATE FUNCTION refuse_while_switching(fenced_store uuid) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM moving_stores
    WHERE id = fenced_store
        AND (standing = 'arriving' OR (standing = 'blocked' AND until > clock_timestamp()));
    IF FOUND THEN
        RAISE EXCEPTION 'store % is changing its shard', fenced_store USING ERRCODE = 'SE004';
    END IF;
END
$$;

-- Whether a row version was written after a snapshot of some moments ago, by the `xmin` that stands in it: 32 bits, of
-- which the other 32 are those that bring it next to the snapshot. A frozen version from billions of transactions ago can
-- look new; it never is the other way round.
CREATE FUNCTION written_since(row_xmin xid, since pg_snapshot) RETURNS boolean
LANGUAGE sql STABLE
RETURN NOT pg_visible_in_snapshot(
    (
        pg_snapshot_xmax(since)::text::bigint - 2147483648
        + ((row_xmin::text::bigint - pg_snapshot_xmax(since)::text::bigint + 2147483648) & 4294967295)
    )::text::xid8,
    since
);

-- Looks before it takes the lock, so that nobody waits on a connection for whoever is drained; and behind it, for whoever
-- blocked the store meanwhile takes the same lock alone, and waits for all who did not see that.
CREATE OR REPLACE FUNCTION fence_store(fenced_store uuid, map_epoch bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM enter_gate();
    PERFORM refuse_while_switching(fenced_store);
    PERFORM pg_advisory_xact_lock_shared(uuid_hash_extended(fenced_store, 0));
    PERFORM refuse_while_switching(fenced_store);
    PERFORM 1 FROM stores WHERE store_id = fenced_store AND epoch <= map_epoch;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'store % is not here for a shard map of epoch %', fenced_store, map_epoch
            USING ERRCODE = 'SE001';
    END IF;
END
$$;
