-- lock: none that anyone waits for: the update takes rows one statement at a time, the index is built CONCURRENTLY.
-- transaction: none
-- A cart, as it stood, is checked out once, also by two requests with different keys: the second finds its version taken.

-- Those that were checked out twice before there was this index. All a version is kept for is to clear its cart when the
-- first request is repeated; the one that keeps it does.
UPDATE idempotency_keys AS k
SET cart_version = NULL
WHERE k.cart_version <> '' AND EXISTS (
    SELECT FROM idempotency_keys AS e
    WHERE e.store_id = k.store_id AND e.cart_version = k.cart_version
        AND (e.credential_id, e.key) < (k.credential_id, k.key)
);

CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS idempotency_keys_cart ON idempotency_keys (store_id, cart_version)
WHERE cart_version <> '';
