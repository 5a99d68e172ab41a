-- lock: none: new types and functions only.
-- The API's documents, built where the rows are: the service passes their bytes through. Each function is one
-- expression, which the planner inlines into the query that calls it; the types give the fields their names and order.

CREATE TYPE product_fields AS (
    id uuid, store_id uuid, title text, description text, price bigint, currency text, stock bigint, attributes jsonb,
    version bigint, created_at timestamptz, updated_at timestamptz
);
CREATE FUNCTION product_document(p products, currency text) RETURNS text
LANGUAGE sql STABLE
RETURN row_to_json(ROW(
    p.id, p.store_id, p.title, p.description, p.price, currency, p.stock, p.attributes, p.version,
    p.created_at, p.updated_at
)::product_fields)::text;

CREATE TYPE order_item_fields AS (product_id uuid, title text, unit_price bigint, quantity bigint);
CREATE FUNCTION order_item_document(product_id uuid, title text, unit_price bigint, quantity bigint) RETURNS json
LANGUAGE sql STABLE
RETURN row_to_json(ROW(product_id, title, unit_price, quantity)::order_item_fields);

CREATE TYPE order_fields AS (
    id uuid, store_id uuid, customer_id uuid, status text, currency text, total bigint, items json,
    created_at timestamptz, updated_at timestamptz
);
CREATE FUNCTION order_document(o orders, items json) RETURNS text
LANGUAGE sql STABLE
RETURN row_to_json(ROW(
    o.id, o.store_id, o.customer_id, o.status, o.currency, o.total, items, o.created_at, o.updated_at
)::order_fields)::text;

CREATE TYPE customer_fields AS (id uuid, email text, name text, created_at timestamptz);
CREATE FUNCTION customer_document(c customers) RETURNS text
LANGUAGE sql STABLE
RETURN row_to_json(ROW(c.id, c.email, c.name, c.created_at)::customer_fields)::text;

CREATE TYPE store_fields AS (id uuid, name text, currency text, created_at timestamptz);
CREATE FUNCTION store_document(s stores) RETURNS text
LANGUAGE sql STABLE
RETURN row_to_json(ROW(s.store_id, s.name, s.currency, s.created_at)::store_fields)::text;
