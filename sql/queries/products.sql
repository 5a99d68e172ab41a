-- name: read_product
-- role: replica
-- returns: one
-- One product's document and version; null where the store has no such product. products_pkey serves it.
SELECT CASE WHEN p.id IS NOT NULL THEN product_document(p, s.currency) END, p.version, node_position()
FROM stores AS s
LEFT JOIN products AS p ON p.store_id = s.store_id AND p.id = %(product_id)s
WHERE s.store_id = %(store_id)s;

-- name: list_products
-- role: replica
-- returns: one
-- One page, newest first: the documents, joined by commas, then the page's last id and whether more follow.
-- products_pkey, read backwards, serves it, however far down the page is.
SELECT page.documents, page.last_id, page.more, node_position()
FROM stores AS s
CROSS JOIN LATERAL (
    SELECT
        string_agg(numbered.document, ',' ORDER BY numbered.place) FILTER (WHERE numbered.place <= %(limit)s) AS documents,
        (array_agg(numbered.id) FILTER (WHERE numbered.place = %(limit)s))[1] AS last_id,
        count(*) > %(limit)s AS more
    FROM (
        SELECT product_document(p, s.currency) AS document, p.id, row_number() OVER (ORDER BY p.id DESC) AS place
        FROM products AS p
        WHERE p.store_id = s.store_id AND p.id < %(before)s
        ORDER BY p.id DESC
        LIMIT %(limit)s + 1
    ) AS numbered
) AS page
WHERE s.store_id = %(store_id)s;

-- name: search_products
-- role: replica
-- returns: one
-- A page of the products in whose title or description every pattern stands; as list_products otherwise.
-- products_search serves the longest pattern (it knows three-letter pieces), the others filter what it found.
SELECT page.documents, page.last_id, page.more, node_position()
FROM stores AS s
CROSS JOIN LATERAL (
    SELECT
        string_agg(numbered.document, ',' ORDER BY numbered.place) FILTER (WHERE numbered.place <= %(limit)s) AS documents,
        (array_agg(numbered.id) FILTER (WHERE numbered.place = %(limit)s))[1] AS last_id,
        count(*) > %(limit)s AS more
    FROM (
        SELECT product_document(p, s.currency) AS document, p.id, row_number() OVER (ORDER BY p.id DESC) AS place
        FROM products AS p
        WHERE p.store_id = s.store_id AND p.id < %(before)s
            AND p.search_text LIKE lower(%(longest_pattern)s)
            AND p.search_text LIKE ALL (ARRAY(SELECT lower(pattern) FROM unnest(%(patterns)s::text[]) AS pattern))
        ORDER BY p.id DESC
        LIMIT %(limit)s + 1
    ) AS numbered
) AS page
WHERE s.store_id = %(store_id)s;

-- name: create_product
-- role: primary
-- returns: one
-- A new product; its document.
INSERT INTO products (store_id, id, title, description, price, stock, attributes, created_at, updated_at)
VALUES (
    %(store_id)s, %(product_id)s, %(title)s, %(description)s, %(price)s, %(stock)s, %(attributes)s::jsonb,
    %(created_at)s, %(created_at)s
)
RETURNING product_document(products, (SELECT s.currency FROM stores AS s WHERE s.store_id = %(store_id)s)), version;

-- name: update_product
-- role: primary
-- returns: one
-- Changes the fields that are not null, where the version is one of those asked for (null: any).
-- Answers the document and version, null where nothing was changed; then whether there is such a product at all.
-- products_pkey serves it.
WITH changed AS (
    UPDATE products
    SET title = coalesce(%(title)s, title),
        description = coalesce(%(description)s, description),
        price = coalesce(%(price)s, price),
        stock = coalesce(%(stock)s, stock),
        attributes = coalesce(%(attributes)s::jsonb, attributes),
        version = version + 1,
        updated_at = greatest(date_trunc('milliseconds', now()), created_at)
    WHERE store_id = %(store_id)s AND id = %(product_id)s
        AND (%(versions)s::bigint[] IS NULL OR version = ANY (%(versions)s::bigint[]))
    RETURNING product_document(products, (SELECT s.currency FROM stores AS s WHERE s.store_id = %(store_id)s)) AS document,
        version
)
SELECT changed.document, changed.version,
    EXISTS (SELECT FROM products AS p WHERE p.store_id = %(store_id)s AND p.id = %(product_id)s)
FROM (VALUES (true)) AS always (one_row)
LEFT JOIN changed ON true;

-- name: delete_product
-- role: primary
-- returns: one
-- Takes a product away; no row where there was none. Orders keep their lines: they point at no product row.
DELETE FROM products WHERE store_id = %(store_id)s AND id = %(product_id)s RETURNING id;
