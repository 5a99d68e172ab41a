-- lock: none that anyone waits for: every table is new.
-- The catalog: the one truth about which shards there are, where each store lives, and which layers are on.
-- Code only computes changes to it. Workers keep a copy in memory and go on with that while the catalog is away.

-- `epoch` rises by one with every change of the map (shards, nodes, partitions, ranges, pins) or of a flag;
-- a worker whose copy has another epoch loads everything again.
CREATE TABLE map_state (
    one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    epoch   bigint NOT NULL
);
INSERT INTO map_state (epoch) VALUES (1);

-- `position` orders the shards: the first is where every store lives while sharding is off.
CREATE TABLE shards (
    name     text PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9-]{0,62}$'),
    position integer NOT NULL UNIQUE,
    weight   double precision NOT NULL DEFAULT 1 CHECK (weight > 0)
);

-- Where a server listens. Its role is discovered, never written down.
CREATE TABLE nodes (
    name  text PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9-]{0,62}$'),
    shard text NOT NULL REFERENCES shards,
    host  text NOT NULL,
    port  integer NOT NULL CHECK (port BETWEEN 1 AND 65535),
    UNIQUE (host, port)
);

-- The ring: 4,096 equal partitions of the hash space, each owned by one shard.
CREATE TABLE partitions (
    partition integer PRIMARY KEY CHECK (partition BETWEEN 0 AND 4095),
    shard     text NOT NULL REFERENCES shards
);

-- Routes that come before the ring: a range of store ids (low included, high not), and single stores.
CREATE TABLE ranges (
    low   uuid PRIMARY KEY,
    high  uuid NOT NULL CHECK (low < high),
    shard text NOT NULL REFERENCES shards
);
-- A pin with `stays` is no one's wish: the store only happens to live there (it was made while sharding was off)
-- until a rebalance moves it to where the ring wants it.
CREATE TABLE pins (
    store_id uuid PRIMARY KEY,
    shard    text NOT NULL REFERENCES shards,
    stays    boolean NOT NULL DEFAULT false
);

CREATE TABLE flags (
    name    text PRIMARY KEY,
    enabled boolean NOT NULL
);
