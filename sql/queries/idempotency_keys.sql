-- name: is_cart_checked_out
-- role: primary
-- returns: one
-- Whether an order was made of a cart as it stood in this version; idempotency_keys_cart serves it.
SELECT EXISTS (
    SELECT FROM idempotency_keys AS k
    WHERE k.store_id = s.store_id AND k.cart_version = %(cart_version)s::text AND k.cart_version <> ''
)
FROM stores AS s
WHERE s.store_id = %(store_id)s;

-- name: sweep_idempotency_keys
-- role: primary
-- returns: none
-- spans: stores
-- Forgets keys that were kept long enough, a batch at a time; idempotency_keys_expiry serves it. Not of a store on the
-- move, as sweep_revoked_sessions.
DELETE FROM idempotency_keys
WHERE (store_id, credential_id, key) IN (
    SELECT k.store_id, k.credential_id, k.key FROM idempotency_keys AS k
    WHERE k.expires_at < now() AND NOT EXISTS (SELECT FROM moving_stores AS m WHERE m.id = k.store_id)
    ORDER BY k.expires_at LIMIT %(batch)s
);
