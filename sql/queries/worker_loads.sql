-- The catalog's table of what each worker has lately done for which stores.

-- name: put_worker_load
-- role: primary
-- returns: none
-- A worker's report in place of its last one; what is left of workers that are gone goes with it. One row, by its key.
WITH gone AS (
    DELETE FROM worker_loads
    WHERE reported_at < clock_timestamp() - %(expires_seconds)s * interval '1 second' AND worker <> %(worker)s
)
INSERT INTO worker_loads (worker, reported_at, load) VALUES (%(worker)s, clock_timestamp(), %(load)s)
ON CONFLICT (worker) DO UPDATE SET reported_at = excluded.reported_at, load = excluded.load;

-- name: delete_worker_load
-- role: primary
-- returns: none
-- A worker that stops takes its report along.
DELETE FROM worker_loads WHERE worker = %(worker)s;

-- name: list_worker_loads
-- role: primary
-- returns: many
-- The reports of all workers that are there. As many rows as workers.
SELECT load FROM worker_loads
WHERE reported_at >= clock_timestamp() - %(expires_seconds)s * interval '1 second';
