-- name: create_customer
-- role: primary
-- returns: one
-- A new customer; no row where the e-mail is taken (customers_email, in any case).
INSERT INTO customers (store_id, id, email, name, password_hash, created_at)
VALUES (%(store_id)s, %(customer_id)s, %(email)s, %(name)s, %(password_hash)s, %(created_at)s)
ON CONFLICT (store_id, lower(email)) DO NOTHING
RETURNING customer_document(customers);

-- name: find_customer
-- role: primary
-- returns: one
-- Who signs in: id and password hash; null where no customer has the e-mail. customers_email serves it.
SELECT c.id, c.password_hash
FROM stores AS s
LEFT JOIN customers AS c ON c.store_id = s.store_id AND lower(c.email) = lower(%(email)s)
WHERE s.store_id = %(store_id)s;

-- name: list_customers
-- role: replica
-- returns: one
-- One page of a store's customers, newest first, as list_products; customers_pkey, read backwards, serves it.
SELECT page.documents, page.last_id, page.more, node_position()
FROM stores AS s
CROSS JOIN LATERAL (
    SELECT
        string_agg(numbered.document, ',' ORDER BY numbered.place) FILTER (WHERE numbered.place <= %(limit)s) AS documents,
        (array_agg(numbered.id) FILTER (WHERE numbered.place = %(limit)s))[1] AS last_id,
        count(*) > %(limit)s AS more
    FROM (
        SELECT customer_document(c) AS document, c.id, row_number() OVER (ORDER BY c.id DESC) AS place
        FROM customers AS c
        WHERE c.store_id = s.store_id AND c.id < %(before)s
        ORDER BY c.id DESC
        LIMIT %(limit)s + 1
    ) AS numbered
) AS page
WHERE s.store_id = %(store_id)s;
