-- lock: none that anyone waits for: the table is new.
-- What each worker has lately done for which stores, for lists and plans that no answer depends on.

-- One row a worker, written anew every few seconds; an older one is of a worker that is gone. Unlogged: a write makes no
-- log, waits for no disk and for no replica. After a crash or a failover the table is empty until the workers come by.
-- `load`: {"shards": {name: RATES}, "stores": [[id, shard, *RATES], ...]}; RATES are requests, statements and seconds in
-- PostgreSQL, each a second.
CREATE UNLOGGED TABLE worker_loads (
    worker      text PRIMARY KEY,
    reported_at timestamptz NOT NULL,
    load        json NOT NULL
);
