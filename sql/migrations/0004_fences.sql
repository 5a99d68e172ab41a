-- lock: none: new functions only.
-- The fence of a lock: a write under a lease that is over does not commit.

-- This server's clock, in microseconds since 1970.
CREATE FUNCTION clock_us() RETURNS bigint
LANGUAGE sql STABLE
RETURN (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;

-- The last statement of a write under a lock, in the write's own transaction. `number` is the fencing number: the moment
-- by this server's clock at which the lock was asked for, never later than that; `lasts_us` is how long its lease is. A
-- server that was promoted since has another clock, and cannot judge a number of the old one's.
-- Raises SE003 where the lease is over, wherever the time went: in a holder that slept, on the network, or here, waiting
-- for rows.
CREATE FUNCTION check_lease(of_timeline integer, number bigint, lasts_us bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF of_timeline <> wal_timeline() OR clock_us() NOT BETWEEN number AND number + lasts_us THEN
        RAISE EXCEPTION 'the lease of % on timeline % is over', number, of_timeline USING ERRCODE = 'SE003';
    END IF;
END
$$;
