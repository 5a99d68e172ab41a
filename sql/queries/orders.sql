-- name: place_order
-- role: primary
-- returns: one
-- One order, whole: its idempotency key, the stock of every line, the order, its lines and the answer's own bytes, in
-- one statement and one commit. products_pkey and idempotency_keys_pkey serve it.
--
-- The steps, from top to bottom. `claim` takes the key, and the cart, for this transaction without waiting: whoever
-- finds either taken meets a first request that is still running. `earlier` is the answer that was given before. A cart
-- that another key checked out, as it stands, is not checked out again (idempotency_keys_cart). `locked` takes the
-- products' rows in the order of their ids, so that no two orders wait for each other in a circle, and sees each as
-- the last commit left it. `short` are the lines that cannot be had; only where there is none, the rest is written.
--
-- outcome: placed, replayed, key-reused, in-progress, revoked, no-items, checked-out, short.
WITH claim AS MATERIALIZED (
    SELECT CASE
        WHEN NOT pg_try_advisory_xact_lock(
            hashtextextended(concat_ws('/', %(store_id)s::uuid, %(credential_id)s::uuid, %(key)s::text), 0)
        ) THEN false
        WHEN %(cart_version)s::text <> '' THEN pg_try_advisory_xact_lock(
            hashtextextended(concat_ws('/', 'cart', %(store_id)s::uuid, %(cart_version)s::text), 0)
        )
        ELSE true
    END AS won
), earlier AS MATERIALIZED (
    SELECT k.response, k.cart_version, k.order_id, k.fingerprint = %(fingerprint)s AS same_body
    FROM idempotency_keys AS k
    WHERE k.store_id = %(store_id)s AND k.credential_id = %(credential_id)s AND k.key = %(key)s
), verdict AS MATERIALIZED (
    SELECT CASE
        WHEN EXISTS (
            SELECT FROM revoked_sessions AS r WHERE r.store_id = %(store_id)s AND r.session_id = %(session_id)s
        ) THEN 'revoked'
        WHEN EXISTS (SELECT FROM earlier WHERE same_body) THEN 'replayed'
        WHEN EXISTS (SELECT FROM earlier) THEN 'key-reused'
        WHEN NOT (SELECT won FROM claim) THEN 'in-progress'
        WHEN cardinality(%(product_ids)s::uuid[]) = 0 THEN 'no-items'
        WHEN %(cart_version)s::text <> '' AND EXISTS (
            SELECT FROM idempotency_keys AS c
            WHERE c.store_id = %(store_id)s AND c.cart_version = %(cart_version)s::text AND c.cart_version <> ''
        ) THEN 'checked-out'
        ELSE 'go'
    END AS outcome
), wanted AS (
    SELECT w.product_id, w.quantity, w.line
    FROM unnest(%(product_ids)s::uuid[], %(quantities)s::bigint[]) WITH ORDINALITY AS w (product_id, quantity, line)
), demand AS MATERIALIZED (
    SELECT w.product_id, sum(w.quantity)::bigint AS quantity FROM wanted AS w GROUP BY w.product_id
), locked AS MATERIALIZED (
    SELECT p.id, p.title, p.price, p.stock
    FROM products AS p
    WHERE p.store_id = %(store_id)s AND p.id = ANY (%(product_ids)s::uuid[])
        AND (SELECT outcome FROM verdict) = 'go'
    ORDER BY p.id
    FOR NO KEY UPDATE
), short AS MATERIALIZED (
    SELECT d.product_id, d.quantity AS requested, l.stock AS available
    FROM demand AS d
    LEFT JOIN locked AS l ON l.id = d.product_id
    WHERE l.id IS NULL OR l.stock < d.quantity
), placed AS (
    INSERT INTO orders (store_id, id, customer_id, shopper_id, status, currency, total, created_at, updated_at)
    SELECT s.store_id, %(order_id)s, %(customer_id)s, %(shopper_id)s, 'pending', s.currency,
        (SELECT sum(l.price * d.quantity)::bigint FROM demand AS d JOIN locked AS l ON l.id = d.product_id),
        %(created_at)s, %(created_at)s
    FROM stores AS s
    WHERE s.store_id = %(store_id)s
        AND (SELECT outcome FROM verdict) = 'go'
        AND NOT EXISTS (SELECT FROM short)
    RETURNING orders AS o
), taken AS (
    UPDATE products AS p
    SET stock = p.stock - d.quantity,
        version = p.version + 1,
        updated_at = greatest(date_trunc('milliseconds', now()), p.created_at)
    FROM demand AS d, placed
    WHERE p.store_id = %(store_id)s AND p.id = d.product_id
), lines AS (
    INSERT INTO order_items (store_id, order_id, line, product_id, title, unit_price, quantity)
    SELECT %(store_id)s, %(order_id)s, w.line, w.product_id, l.title, l.price, w.quantity
    FROM placed, wanted AS w
    JOIN locked AS l ON l.id = w.product_id
), answer AS MATERIALIZED (
    SELECT order_document(placed.o, (
        SELECT json_agg(order_item_document(w.product_id, l.title, l.price, w.quantity) ORDER BY w.line)
        FROM wanted AS w
        JOIN locked AS l ON l.id = w.product_id
    )) AS response
    FROM placed
), kept AS (
    INSERT INTO idempotency_keys
        (store_id, credential_id, key, fingerprint, order_id, cart_version, response, expires_at)
    SELECT %(store_id)s, %(credential_id)s, %(key)s, %(fingerprint)s, %(order_id)s, %(cart_version)s, a.response,
        now() + %(kept_seconds)s * interval '1 second'
    FROM answer AS a
)
SELECT
    CASE
        WHEN v.outcome <> 'go' THEN v.outcome
        WHEN a.response IS NULL THEN 'short'
        ELSE 'placed'
    END AS outcome,
    coalesce(a.response, e.response) AS response,
    coalesce(e.order_id, %(order_id)s) AS order_id,
    CASE WHEN e.order_id IS NULL THEN %(cart_version)s ELSE e.cart_version END AS cart_version,
    (SELECT json_agg(json_build_object('product_id', product_id, 'requested', requested, 'available', available)
        ORDER BY product_id)::text FROM short) AS short
FROM verdict AS v
LEFT JOIN answer AS a ON true
LEFT JOIN earlier AS e ON e.same_body;

-- name: read_order
-- role: replica
-- returns: one
-- One order's document and who may see it; null where the store has no such order. orders_pkey and order_items_pkey
-- serve it.
SELECT
    CASE WHEN o.id IS NOT NULL THEN order_document(o, (
        SELECT json_agg(order_item_document(i.product_id, i.title, i.unit_price, i.quantity) ORDER BY i.line)
        FROM order_items AS i
        WHERE i.store_id = o.store_id AND i.order_id = o.id
    )) END,
    o.shopper_id,
    EXISTS (SELECT FROM revoked_sessions AS r WHERE r.store_id = s.store_id AND r.session_id = %(session_id)s),
    node_position()
FROM stores AS s
LEFT JOIN orders AS o ON o.store_id = s.store_id AND o.id = %(order_id)s
WHERE s.store_id = %(store_id)s;

-- name: list_orders
-- role: replica
-- returns: one
-- One page of all orders of a store, newest first, as list_products; orders_pkey, read backwards, serves it.
SELECT page.documents, page.last_id, page.more, node_position()
FROM stores AS s
CROSS JOIN LATERAL (
    SELECT
        string_agg(numbered.document, ',' ORDER BY numbered.place) FILTER (WHERE numbered.place <= %(limit)s) AS documents,
        (array_agg(numbered.id) FILTER (WHERE numbered.place = %(limit)s))[1] AS last_id,
        count(*) > %(limit)s AS more
    FROM (
        SELECT order_document(o, (
                SELECT json_agg(order_item_document(i.product_id, i.title, i.unit_price, i.quantity) ORDER BY i.line)
                FROM order_items AS i
                WHERE i.store_id = o.store_id AND i.order_id = o.id
            )) AS document,
            o.id, row_number() OVER (ORDER BY o.id DESC) AS place
        FROM orders AS o
        WHERE o.store_id = s.store_id AND o.id < %(before)s
        ORDER BY o.id DESC
        LIMIT %(limit)s + 1
    ) AS numbered
) AS page
WHERE s.store_id = %(store_id)s;

-- name: list_orders_by_status
-- role: replica
-- returns: one
-- One page of a store's orders in one status, newest first; orders_by_status, read backwards, serves it.
SELECT page.documents, page.last_id, page.more, node_position()
FROM stores AS s
CROSS JOIN LATERAL (
    SELECT
        string_agg(numbered.document, ',' ORDER BY numbered.place) FILTER (WHERE numbered.place <= %(limit)s) AS documents,
        (array_agg(numbered.id) FILTER (WHERE numbered.place = %(limit)s))[1] AS last_id,
        count(*) > %(limit)s AS more
    FROM (
        SELECT order_document(o, (
                SELECT json_agg(order_item_document(i.product_id, i.title, i.unit_price, i.quantity) ORDER BY i.line)
                FROM order_items AS i
                WHERE i.store_id = o.store_id AND i.order_id = o.id
            )) AS document,
            o.id, row_number() OVER (ORDER BY o.id DESC) AS place
        FROM orders AS o
        WHERE o.store_id = s.store_id AND o.status = %(status)s AND o.id < %(before)s
        ORDER BY o.id DESC
        LIMIT %(limit)s + 1
    ) AS numbered
) AS page
WHERE s.store_id = %(store_id)s;

-- name: list_shopper_orders
-- role: replica
-- returns: one
-- One page of one shopper's orders (in one status, unless null), newest first; orders_by_shopper serves it.
SELECT page.documents, page.last_id, page.more,
    EXISTS (SELECT FROM revoked_sessions AS r WHERE r.store_id = s.store_id AND r.session_id = %(session_id)s),
    node_position()
FROM stores AS s
CROSS JOIN LATERAL (
    SELECT
        string_agg(numbered.document, ',' ORDER BY numbered.place) FILTER (WHERE numbered.place <= %(limit)s) AS documents,
        (array_agg(numbered.id) FILTER (WHERE numbered.place = %(limit)s))[1] AS last_id,
        count(*) > %(limit)s AS more
    FROM (
        SELECT order_document(o, (
                SELECT json_agg(order_item_document(i.product_id, i.title, i.unit_price, i.quantity) ORDER BY i.line)
                FROM order_items AS i
                WHERE i.store_id = o.store_id AND i.order_id = o.id
            )) AS document,
            o.id, row_number() OVER (ORDER BY o.id DESC) AS place
        FROM orders AS o
        WHERE o.store_id = s.store_id AND o.shopper_id = %(shopper_id)s AND o.id < %(before)s
            AND (%(status)s::text IS NULL OR o.status = %(status)s)
        ORDER BY o.id DESC
        LIMIT %(limit)s + 1
    ) AS numbered
) AS page
WHERE s.store_id = %(store_id)s;

-- name: advance_order
-- role: primary
-- returns: one
-- Takes an order to its next status where the one it has allows it: its document, null where not; then the status it
-- had (null: no such order). orders_pkey serves it.
WITH before AS MATERIALIZED (
    SELECT o.status FROM orders AS o WHERE o.store_id = %(store_id)s AND o.id = %(order_id)s FOR NO KEY UPDATE
), advanced AS (
    UPDATE orders AS o
    SET status = %(status)s, updated_at = greatest(date_trunc('milliseconds', now()), o.created_at)
    FROM before
    WHERE o.store_id = %(store_id)s AND o.id = %(order_id)s AND before.status = ANY (%(allowed_from)s::text[])
    RETURNING o, true AS happened
)
SELECT
    CASE WHEN advanced.happened THEN order_document(advanced.o, (
        SELECT json_agg(order_item_document(i.product_id, i.title, i.unit_price, i.quantity) ORDER BY i.line)
        FROM order_items AS i
        WHERE i.store_id = %(store_id)s AND i.order_id = %(order_id)s
    )) END,
    before.status
FROM before
LEFT JOIN advanced ON true;

-- name: cancel_order
-- role: primary
-- returns: one
-- As advance_order to `cancelled`, and puts the units back, once: only the statement that changed the status does.
-- The products are locked in the order of their ids, as place_order does; those that are gone are passed over.
WITH before AS MATERIALIZED (
    SELECT o.status FROM orders AS o WHERE o.store_id = %(store_id)s AND o.id = %(order_id)s FOR NO KEY UPDATE
), advanced AS (
    UPDATE orders AS o
    SET status = 'cancelled', updated_at = greatest(date_trunc('milliseconds', now()), o.created_at)
    FROM before
    WHERE o.store_id = %(store_id)s AND o.id = %(order_id)s AND before.status IN ('pending', 'paid')
    RETURNING o, true AS happened
), returned AS MATERIALIZED (
    SELECT i.product_id, sum(i.quantity)::bigint AS quantity
    FROM order_items AS i
    WHERE i.store_id = %(store_id)s AND i.order_id = %(order_id)s AND EXISTS (SELECT FROM advanced)
    GROUP BY i.product_id
), locked AS MATERIALIZED (
    SELECT p.id
    FROM products AS p
    WHERE p.store_id = %(store_id)s AND p.id = ANY (ARRAY(SELECT r.product_id FROM returned AS r))
    ORDER BY p.id
    FOR NO KEY UPDATE
), restocked AS (
    UPDATE products AS p
    SET stock = p.stock + r.quantity,
        version = p.version + 1,
        updated_at = greatest(date_trunc('milliseconds', now()), p.created_at)
    FROM returned AS r
    JOIN locked AS l ON l.id = r.product_id
    WHERE p.store_id = %(store_id)s AND p.id = r.product_id
)
SELECT
    CASE WHEN advanced.happened THEN order_document(advanced.o, (
        SELECT json_agg(order_item_document(i.product_id, i.title, i.unit_price, i.quantity) ORDER BY i.line)
        FROM order_items AS i
        WHERE i.store_id = %(store_id)s AND i.order_id = %(order_id)s
    )) END,
    before.status
FROM before
LEFT JOIN advanced ON true;
