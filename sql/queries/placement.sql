-- Changes of the map that send stores elsewhere, on the catalog's primary: docs/rebalance.md.

-- name: set_partitions
-- role: primary
-- returns: none
-- The whole ring: owners in order of partition, from 0. Touches only the rows that change hands.
UPDATE partitions AS p SET shard = owned.shard
FROM unnest(%(owners)s::text[]) WITH ORDINALITY AS owned (shard, ordinality)
WHERE p.partition = owned.ordinality - 1 AND p.shard <> owned.shard;

-- name: delete_ranges
-- role: primary
-- returns: none
-- All of them, before they are inserted anew; there are few.
DELETE FROM ranges;

-- name: insert_ranges
-- role: primary
-- returns: none
-- The ranges, as three lists of the same length.
INSERT INTO ranges (low, high, shard)
SELECT r.low, r.high, r.shard FROM unnest(%(lows)s::uuid[], %(highs)s::uuid[], %(shards)s::text[]) AS r (low, high, shard);

-- name: delete_needless_pins
-- role: primary
-- returns: none
-- Of stores that ranges and ring lead to where they live; by primary key. A pin that somebody wished for is left.
DELETE FROM pins WHERE store_id = ANY (%(store_ids)s::uuid[]) AND stays;

-- name: lock_out_growth
-- role: primary
-- returns: one
-- Held for the session by whoever grows, shrinks or evens out the shards: one at a time. 7307 is its number.
SELECT pg_try_advisory_lock(7307);

-- name: let_in_growth
-- role: primary
-- returns: one
-- The end of `lock_out_growth`: the connection may be a pool's, and go on.
SELECT pg_advisory_unlock(7307);

-- name: insert_staying_moves
-- role: primary
-- returns: none
-- Moves of stores that a change of the placement left where they stay, all at once; a store that is on a move already
-- gets none (moves_under_way).
INSERT INTO moves (id, store_id, from_shard, to_shard, route, undo_seconds)
SELECT m.id, m.store, m.source, m.target, 'stay', %(undo_seconds)s
FROM unnest(%(move_ids)s::uuid[], %(stores)s::uuid[], %(from_shards)s::text[], %(to_shards)s::text[])
    AS m (id, store, source, target)
ON CONFLICT (store_id) WHERE state IN ('copying', 'catching_up', 'verifying', 'switching') DO NOTHING;
