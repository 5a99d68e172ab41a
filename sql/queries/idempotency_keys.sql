-- name: sweep_idempotency_keys
-- role: primary
-- returns: none
-- spans: stores
-- Forgets keys that were kept long enough, a batch at a time; idempotency_keys_expiry serves it.
DELETE FROM idempotency_keys
WHERE (store_id, credential_id, key) IN (
    SELECT store_id, credential_id, key FROM idempotency_keys WHERE expires_at < now() ORDER BY expires_at LIMIT %(batch)s
);
