-- lock: none that anyone waits for: every table is new.
-- The tenant tables of one shard. Every key begins with store_id, so that a store's rows lie together, can be moved by
-- logical replication with a row filter, and could be handed to Citus as they are.

-- Lets one GIN index hold store_id beside the text, so that a search meets both: the store's rows and the pieces'.
CREATE EXTENSION IF NOT EXISTS btree_gin;
CREATE EXTENSION IF NOT EXISTS pg_trgm;

-- One row a store that lives here. `epoch` is the shard map's epoch at which this shard became the store's home:
-- a write routed by an older map is refused, in the write's own transaction (fence_store below).
CREATE TABLE stores (
    store_id   uuid PRIMARY KEY,
    name       text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    currency   text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    epoch      bigint NOT NULL,
    created_at timestamptz NOT NULL
);

-- A merchant's keys: a hash only. The secret has 256 random bits, so one round of SHA-256 is enough.
CREATE TABLE api_keys (
    store_id    uuid NOT NULL REFERENCES stores,
    key_id      uuid NOT NULL,
    secret_hash bytea NOT NULL CHECK (octet_length(secret_hash) = 32),
    created_at  timestamptz NOT NULL,
    revoked_at  timestamptz,
    PRIMARY KEY (store_id, key_id)
);

-- Every worker asks each second which keys were revoked lately.
CREATE INDEX api_keys_revoked ON api_keys (revoked_at) WHERE revoked_at IS NOT NULL;

-- `version` rises with every change, stock included: it is the ETag.
-- fillfactor leaves room on each page, so that an order's change of stock stays a HOT update and touches no index.
CREATE TABLE products (
    store_id    uuid NOT NULL REFERENCES stores,
    id          uuid NOT NULL,
    title       text NOT NULL CHECK (char_length(title) BETWEEN 1 AND 200),
    description text NOT NULL DEFAULT '' CHECK (char_length(description) <= 10000),
    price       bigint NOT NULL CHECK (price BETWEEN 0 AND 1000000000000),
    -- No upper bound: cancelling an order must always be able to put its units back.
    stock       bigint NOT NULL CHECK (stock >= 0),
    attributes  jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(attributes) = 'object'),
    version     bigint NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    -- What a search looks in. A line break stands between the two, and a searched word holds no white space,
    -- so no match spans both.
    search_text text NOT NULL GENERATED ALWAYS AS (lower(title || E'\n' || description)) STORED,
    PRIMARY KEY (store_id, id)
) WITH (fillfactor = 90);

CREATE INDEX products_search ON products USING gin (store_id, search_text gin_trgm_ops);

CREATE TABLE customers (
    store_id      uuid NOT NULL REFERENCES stores,
    id            uuid NOT NULL,
    email         text NOT NULL CHECK (char_length(email) BETWEEN 3 AND 254),
    name          text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    password_hash text NOT NULL,
    created_at    timestamptz NOT NULL,
    PRIMARY KEY (store_id, id)
);

CREATE UNIQUE INDEX customers_email ON customers (store_id, lower(email));

-- `shopper_id` is who may see the order: the customer, or a guest's session; null where a merchant placed it.
-- No foreign key to stores: every order of a busy store would lock that one row; the fence already proves that the
-- store is here, in the same transaction.
CREATE TABLE orders (
    store_id    uuid NOT NULL,
    id          uuid NOT NULL,
    customer_id uuid,
    shopper_id  uuid,
    status      text NOT NULL CHECK (status IN ('pending', 'paid', 'fulfilled', 'cancelled')),
    currency    text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    total       bigint NOT NULL CHECK (total >= 0),
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    PRIMARY KEY (store_id, id),
    FOREIGN KEY (store_id, customer_id) REFERENCES customers
);

CREATE INDEX orders_by_status ON orders (store_id, status, id);
CREATE INDEX orders_by_shopper ON orders (store_id, shopper_id, id) WHERE shopper_id IS NOT NULL;

-- The lines keep title and price as they were sold; the product may change or go.
CREATE TABLE order_items (
    store_id   uuid NOT NULL,
    order_id   uuid NOT NULL,
    line       integer NOT NULL CHECK (line BETWEEN 1 AND 100),
    product_id uuid NOT NULL,
    title      text NOT NULL,
    unit_price bigint NOT NULL CHECK (unit_price >= 0),
    quantity   bigint NOT NULL CHECK (quantity BETWEEN 1 AND 10000),
    PRIMARY KEY (store_id, order_id, line),
    FOREIGN KEY (store_id, order_id) REFERENCES orders
);

-- One row an order that was placed, with the answer's own bytes: a repeated key gets them again.
-- `cart_version` says which cart was checked out, so that a repeat can still clear it.
CREATE TABLE idempotency_keys (
    store_id      uuid NOT NULL,
    credential_id uuid NOT NULL,
    key           text NOT NULL CHECK (char_length(key) BETWEEN 1 AND 255),
    fingerprint   bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    order_id      uuid NOT NULL,
    cart_version  text,
    response      text NOT NULL,
    expires_at    timestamptz NOT NULL,
    PRIMARY KEY (store_id, credential_id, key)
);

CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);

-- Sessions that were signed out before their token ran out.
CREATE TABLE revoked_sessions (
    store_id   uuid NOT NULL,
    session_id uuid NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (store_id, session_id)
);

CREATE INDEX revoked_sessions_expiry ON revoked_sessions (expires_at);

-- The fence. Called as a statement of its own, before the write, in the write's transaction: the shared lock waits for
-- a move that is switching this store, and because the function is volatile the row is then read afresh.
-- Raises SE001 where the map that routed the write is older than the store's home here, or the store is not here.
CREATE FUNCTION fence_store(fenced_store uuid, map_epoch bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(uuid_hash_extended(fenced_store, 0));
    PERFORM 1 FROM stores WHERE store_id = fenced_store AND epoch <= map_epoch;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'store % is not here for a shard map of epoch %', fenced_store, map_epoch
            USING ERRCODE = 'SE001';
    END IF;
END
$$;
