-- lock: none that anyone waits for: a new table, new functions, and fence_store's row in pg_proc.
-- What reading from replicas and handing over to one of them needs: where a node stands in the log, waiting for it to
-- get somewhere, the history of its timelines, and a gate that keeps writes out of a timeline that ends.

-- Where this node stands: its timeline (0 where a replica cannot tell), how far it has replayed, up to where a statement
-- that runs now can have seen, and whether it is in recovery (1) or a primary (0). A primary's log stands where it is flushed: every commit that others see is.
--
-- The order matters. A replica goes to a newer timeline only where that left its own at or behind what it has
-- replayed; so the position, taken first, lies on the history of the timeline, taken last. The other way round it
-- could lie past the fork. The timeline is the WAL receiver's: it is set when recovery has accepted that history.
-- pg_last_wal_replay_lsn() moves when a record has been applied, a little after its commit can be seen: while more is
-- at hand than was replayed, a statement may have seen one record more.
CREATE FUNCTION node_position() RETURNS bigint[]
LANGUAGE plpgsql STABLE AS $$
DECLARE
    replayed bigint;
    received bigint;
BEGIN
    IF NOT pg_is_in_recovery() THEN
        replayed := pg_current_wal_flush_lsn() - '0/0'::pg_lsn;
        RETURN ARRAY[wal_timeline(), replayed, replayed, 0];
    END IF;
    replayed := pg_last_wal_replay_lsn() - '0/0'::pg_lsn;
    received := pg_last_wal_receive_lsn() - '0/0'::pg_lsn;
    RETURN ARRAY[
        coalesce((SELECT received_tli FROM pg_stat_get_wal_receiver()), 0),
        replayed,
        CASE WHEN received > replayed THEN replayed + 1 ELSE replayed END,
        1
    ];
END
$$;

-- The timeline that this server writes; only on a primary. From the WAL file's name: after a promotion
-- pg_control_checkpoint() still tells the old one.
CREATE FUNCTION wal_timeline() RETURNS integer
LANGUAGE sql STABLE
RETURN ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::integer;

-- Waits on a replica until it has replayed up to `wanted`, for so many milliseconds at most, then says where it stands.
-- Sent in front of a read, in one packet with it: the read's snapshot is taken after this has returned.
CREATE FUNCTION await_replay(wanted bigint, patience_ms integer) RETURNS bigint[]
LANGUAGE plpgsql STABLE AS $$
DECLARE
    give_up timestamptz := clock_timestamp() + patience_ms * interval '1 ms';
BEGIN
    WHILE pg_is_in_recovery() AND pg_last_wal_replay_lsn() < '0/0'::pg_lsn + wanted
        AND clock_timestamp() < give_up LOOP
        PERFORM pg_sleep(0.0005);
    END LOOP;
    RETURN node_position();
END
$$;

-- The history of a timeline, as PostgreSQL keeps it: a line for each timeline before it, with the position at which
-- that one was left. Null for timeline 1, and where this node has no such file.
-- Runs as the administrator, because reading files is not the service's right; it reads no other file than these.
CREATE FUNCTION timeline_history(of_timeline integer) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER
RETURN pg_read_file('pg_wal/' || lpad(upper(to_hex(of_timeline)), 8, '0') || '.history', true);

-- The newest timeline this node has heard of: at least the one it replays.
CREATE FUNCTION newest_timeline() RETURNS integer
LANGUAGE sql STABLE SECURITY DEFINER
RETURN (
    SELECT coalesce(max(('x' || left(file, 8))::bit(32)::integer), 1)
    FROM pg_ls_dir('pg_wal') AS file
    WHERE file ~ '^[0-9A-F]{8}\.history$'
);

-- The timelines in which no write begins any more, because another node is being promoted. A promotion begins a new
-- timeline, which has no row here: the gate is shut for the primary that goes, never for the one that comes.
-- `until` opens it again by itself, should whoever shut it not come back: the one who goes cannot confirm a commit then
-- unless nobody was promoted, for a commit needs a replica.
CREATE TABLE closed_timelines (
    timeline integer PRIMARY KEY,
    until    timestamptz NOT NULL
);

-- First in every write's transaction. Raises SE002 where the gate is shut: nothing has been done then, and the same
-- write may be sent to the next primary. The shared lock makes whoever shuts the gate wait for the writes under way.
CREATE FUNCTION enter_gate() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtext('closed_timelines'));
    PERFORM 1 FROM closed_timelines WHERE timeline = wal_timeline() AND until > clock_timestamp();
    IF FOUND THEN
        RAISE EXCEPTION 'another node is being promoted' USING ERRCODE = 'SE002';
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION fence_store(fenced_store uuid, map_epoch bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM enter_gate();
    PERFORM pg_advisory_xact_lock_shared(uuid_hash_extended(fenced_store, 0));
    PERFORM 1 FROM stores WHERE store_id = fenced_store AND epoch <= map_epoch;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'store % is not here for a shard map of epoch %', fenced_store, map_epoch
            USING ERRCODE = 'SE001';
    END IF;
END
$$;
