-- name: find_api_key
-- role: primary
-- returns: one
-- A merchant key's hash, for a worker that sees the key for the first time; api_keys_pkey serves it.
-- From the primary: a key made a moment ago must work, one revoked a moment ago must not.
SELECT k.secret_hash, k.revoked_at IS NOT NULL
FROM stores AS s
LEFT JOIN api_keys AS k ON k.store_id = s.store_id AND k.key_id = %(key_id)s
WHERE s.store_id = %(store_id)s;

-- name: create_api_key
-- role: primary
-- returns: one
-- One more merchant key for a store.
INSERT INTO api_keys (store_id, key_id, secret_hash, created_at)
VALUES (%(store_id)s, %(key_id)s, %(secret_hash)s, %(created_at)s)
RETURNING key_id;

-- name: revoke_api_key
-- role: primary
-- returns: one
-- Revokes a key; revoking it again changes nothing. No row: the store has no such key. api_keys_pkey serves it.
UPDATE api_keys
SET revoked_at = coalesce(revoked_at, now())
WHERE store_id = %(store_id)s AND key_id = %(key_id)s
RETURNING key_id;

-- name: list_revoked_keys
-- role: primary
-- returns: many
-- spans: stores
-- Keys of this shard that were revoked lately: each worker asks again and again; api_keys_revoked serves it.
-- `now()` is when the revoking transaction began, so the window reaches further back than the longest one takes.
SELECT key_id FROM api_keys WHERE revoked_at > now() - %(window_seconds)s * interval '1 second';
