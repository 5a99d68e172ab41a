-- lock: none: new functions only.
-- The API's documents, built where the rows are: the service passes their bytes through. Each is one expression, which
-- the planner inlines into the query that calls it.

CREATE FUNCTION product_document(p products, currency text) RETURNS text
LANGUAGE sql STABLE
RETURN json_build_object(
    'id', p.id, 'store_id', p.store_id, 'title', p.title, 'description', p.description, 'price', p.price,
    'currency', currency, 'stock', p.stock, 'attributes', p.attributes, 'version', p.version,
    'created_at', p.created_at, 'updated_at', p.updated_at
)::text;

CREATE FUNCTION order_item_document(product_id uuid, title text, unit_price bigint, quantity bigint) RETURNS json
LANGUAGE sql STABLE
RETURN json_build_object('product_id', product_id, 'title', title, 'unit_price', unit_price, 'quantity', quantity);

CREATE FUNCTION order_document(o orders, items json) RETURNS text
LANGUAGE sql STABLE
RETURN json_build_object(
    'id', o.id, 'store_id', o.store_id, 'customer_id', o.customer_id, 'status', o.status, 'currency', o.currency,
    'total', o.total, 'items', items, 'created_at', o.created_at, 'updated_at', o.updated_at
)::text;

CREATE FUNCTION customer_document(c customers) RETURNS text
LANGUAGE sql STABLE
RETURN json_build_object('id', c.id, 'email', c.email, 'name', c.name, 'created_at', c.created_at)::text;

CREATE FUNCTION store_document(s stores) RETURNS text
LANGUAGE sql STABLE
RETURN json_build_object('id', s.store_id, 'name', s.name, 'currency', s.currency, 'created_at', s.created_at)::text;
