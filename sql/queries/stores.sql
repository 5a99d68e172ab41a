-- name: read_store
-- role: replica
-- returns: one
-- One store's document; stores_pkey serves it.
SELECT store_document(s), node_position() FROM stores AS s WHERE s.store_id = %(store_id)s;

-- name: create_store
-- role: primary
-- returns: one
-- A new store with its first merchant key, both or neither. No fence: there is no row yet that could have moved.
WITH store AS (
    INSERT INTO stores (store_id, name, currency, epoch, created_at)
    VALUES (%(store_id)s, %(name)s, %(currency)s, %(epoch)s, %(created_at)s)
    RETURNING store_document(stores) AS document
), api_key AS (
    INSERT INTO api_keys (store_id, key_id, secret_hash, created_at)
    VALUES (%(store_id)s, %(key_id)s, %(secret_hash)s, %(created_at)s)
)
SELECT document FROM store;

-- name: list_stores
-- role: replica
-- returns: many
-- spans: stores
-- One shard's part of a page of the operator's list, newest first; stores_pkey, read backwards, serves it.
SELECT s.store_id, store_document(s), node_position()
FROM stores AS s
WHERE s.store_id < %(before)s
ORDER BY s.store_id DESC
LIMIT %(limit)s;

-- name: count_stores
-- role: primary
-- returns: one
-- spans: stores
-- How many stores live on this shard, for the topology; an index-only scan of stores_pkey. Copies that are still being
-- made do not count.
SELECT count(*) FROM stores AS s
WHERE NOT EXISTS (SELECT FROM moving_stores AS m WHERE m.id = s.store_id AND m.standing = 'arriving');

-- name: list_store_ids
-- role: primary
-- returns: many
-- spans: stores
-- Every store of this shard, for turning the flag `sharding` on or off; stores_pkey serves it. As count_stores.
SELECT s.store_id FROM stores AS s
WHERE NOT EXISTS (SELECT FROM moving_stores AS m WHERE m.id = s.store_id AND m.standing = 'arriving')
ORDER BY s.store_id;
