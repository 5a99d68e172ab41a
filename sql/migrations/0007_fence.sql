-- lock: none that anyone waits for: fence_store's row in pg_proc.
-- What a move adds to every other store's writes: one look-up, in the statement that was there before.

-- Whether the store may be written here is asked once, behind the lock that its writes share. Whoever blocks the store
-- does so before he asks for that lock alone, so a write that has it either sees the block or is waited for. Only a write
-- that would have to wait for the lock looks before, and is refused: nobody shall wait on a connection for whoever is
-- drained.
CREATE OR REPLACE FUNCTION fence_store(fenced_store uuid, map_epoch bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    is_home      boolean;
    is_switching boolean;
BEGIN
    PERFORM enter_gate();
    IF NOT pg_try_advisory_xact_lock_shared(uuid_hash_extended(fenced_store, 0)) THEN
        PERFORM refuse_while_switching(fenced_store);
        PERFORM pg_advisory_xact_lock_shared(uuid_hash_extended(fenced_store, 0));
    END IF;
    SELECT
        EXISTS (SELECT FROM stores WHERE store_id = fenced_store AND epoch <= map_epoch),
        EXISTS (
            SELECT FROM moving_stores
            WHERE id = fenced_store
                AND (standing = 'arriving' OR (standing = 'blocked' AND until > clock_timestamp()))
        )
    INTO is_home, is_switching;
    IF is_switching THEN
        RAISE EXCEPTION 'store % is changing its shard', fenced_store USING ERRCODE = 'SE004';
    END IF;
    IF NOT is_home THEN
        RAISE EXCEPTION 'store % is not here for a shard map of epoch %', fenced_store, map_epoch
            USING ERRCODE = 'SE001';
    END IF;
END
$$;
