-- The catalog's own tables, in the catalog's database: which shards there are, where stores live, which layers are on.

-- name: load_catalog
-- role: replica
-- returns: one
-- The whole map and the flags. One statement, so one snapshot: no reader sees half of a change, on a replica neither.
SELECT
    map_state.epoch,
    (SELECT coalesce(json_agg(json_build_array(name, weight) ORDER BY position), '[]') FROM shards) AS shards,
    (SELECT coalesce(json_agg(json_build_array(name, shard, host, port) ORDER BY name), '[]') FROM nodes) AS nodes,
    (SELECT coalesce(array_agg(shard ORDER BY partition), '{}') FROM partitions) AS partitions,
    (SELECT coalesce(json_agg(json_build_array(low, high, shard) ORDER BY low), '[]') FROM ranges) AS ranges,
    pinned.store_ids,
    pinned.shards AS pinned_shards,
    pinned.stays,
    (SELECT coalesce(json_object_agg(name, enabled), '{}') FROM flags) AS flags,
    (
        -- Longer than any replica that is read may lag, and than a worker goes without a look at the map.
        SELECT coalesce(json_agg(json_build_array(
            store_id, decided_epoch, at_system_identifier::text, at_timeline, at_lsn
        ) ORDER BY decided_epoch), '[]')
        FROM moves
        WHERE decided_epoch IS NOT NULL AND decided_at > now() - interval '1 hour'
    ) AS arrivals
FROM map_state
CROSS JOIN (
    SELECT
        coalesce(array_agg(store_id ORDER BY store_id), '{}') AS store_ids,
        coalesce(array_agg(shard ORDER BY store_id), '{}') AS shards,
        coalesce(array_agg(stays ORDER BY store_id), '{}') AS stays
    FROM pins
) AS pinned;

-- name: read_epoch
-- role: replica
-- returns: one
-- Has anything changed? Every worker asks this a few times a second; one row.
SELECT epoch FROM map_state;

-- name: raise_epoch
-- role: primary
-- returns: one
-- Every change of the map or of a flag ends with this, in its own transaction. One row.
UPDATE map_state SET epoch = epoch + 1 RETURNING epoch;

-- name: lock_map_for_change
-- role: primary
-- returns: one
-- Whoever changes the map holds this to the end of the transaction, alone. 7305 is this lock's number, here and below.
SELECT pg_advisory_xact_lock(7305);

-- name: lock_map_for_placement
-- role: primary
-- returns: one
-- Whoever makes a store holds this, beside others that make one: the map cannot change in between.
SELECT pg_advisory_xact_lock_shared(7305);

-- name: hold_epoch
-- role: primary
-- returns: one
-- No change of the map commits before this transaction's end, for each raises this row; none that has is missed by what
-- is read from here on. One row.
SELECT epoch FROM map_state FOR UPDATE;

-- name: set_lock_limits
-- role: primary
-- returns: one
-- How long this transaction waits for a lock, and how long it may hold it while its client does something else.
SELECT
    set_config('lock_timeout', %(lock_timeout)s, true),
    set_config('idle_in_transaction_session_timeout', %(idle_timeout)s, true);

-- name: set_flag
-- role: primary
-- returns: many
-- The primary key finds the row. A row comes back only where the value is another one than before.
INSERT INTO flags (name, enabled) VALUES (%(name)s, %(enabled)s)
ON CONFLICT (name) DO UPDATE SET enabled = excluded.enabled WHERE flags.enabled <> excluded.enabled
RETURNING name;

-- name: insert_staying_pins
-- role: primary
-- returns: none
-- Pins stores to the shard they happen to live on; an operator's pin to another shard gives way, since it was not followed.
INSERT INTO pins (store_id, shard, stays)
SELECT store_id, %(shard)s, true FROM unnest(%(store_ids)s::uuid[]) AS store_id
ON CONFLICT (store_id) DO UPDATE SET shard = excluded.shard, stays = true;

-- name: delete_staying_pins
-- role: primary
-- returns: none
-- While sharding is off no pin is followed; turning it on makes these anew. Reads the whole table, once a change.
DELETE FROM pins WHERE stays;

-- name: read_registration
-- role: primary
-- returns: one
-- What is registered: names of shards in order, nodes, and whether the ring is assigned. All of three small tables.
SELECT
    (SELECT coalesce(array_agg(name ORDER BY position), '{}') FROM shards) AS shards,
    (SELECT coalesce(json_agg(json_build_array(name, shard, host, port)), '[]') FROM nodes) AS nodes,
    EXISTS (SELECT FROM partitions) AS assigned;

-- name: count_routes_to_shard
-- role: primary
-- returns: one
-- How many partitions, ranges, pins and moves lead to a shard. Reads all of the first three; moves_untidied serves the last.
SELECT
    (SELECT count(*) FROM partitions WHERE shard = %(shard)s)
    + (SELECT count(*) FROM ranges WHERE shard = %(shard)s)
    + (SELECT count(*) FROM pins WHERE shard = %(shard)s)
    + (SELECT count(*) FROM moves WHERE tidied_at IS NULL AND %(shard)s IN (from_shard, to_shard)) AS routes;

-- name: delete_nodes
-- role: primary
-- returns: none
-- All of them, before they are inserted anew: two nodes that swap ports would meet otherwise (unique host and port).
DELETE FROM nodes;

-- name: delete_nodes_of_shard
-- role: primary
-- returns: none
-- The nodes of a shard that leaves. Reads the whole table: it is small.
DELETE FROM nodes WHERE shard = %(shard)s;

-- name: delete_shard
-- role: primary
-- returns: none
-- By primary key; the foreign keys refuse it while anything leads to the shard.
DELETE FROM shards WHERE name = %(shard)s;

-- name: insert_shard
-- role: primary
-- returns: none
-- A new shard comes last in order.
INSERT INTO shards (name, position, weight)
SELECT %(shard)s, coalesce(max(position) + 1, 0), %(weight)s FROM shards;

-- name: insert_node
-- role: primary
-- returns: none
-- Where one server of a shard listens.
INSERT INTO nodes (name, shard, host, port) VALUES (%(name)s, %(shard)s, %(host)s, %(port)s);

-- name: insert_partitions
-- role: primary
-- returns: none
-- The whole ring: owners in order of partition, from 0.
INSERT INTO partitions (partition, shard)
SELECT ordinality - 1, shard FROM unnest(%(owners)s::text[]) WITH ORDINALITY AS owned (shard, ordinality);
