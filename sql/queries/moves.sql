-- The catalog's tables of moves. Every change by a mover names its term, and touches nothing once there is a higher one.

-- name: insert_move
-- role: primary
-- returns: many
-- A new move, which begins when the mover comes to it; no row where the store is on a move already (moves_under_way).
INSERT INTO moves (id, store_id, from_shard, to_shard, route, undo_seconds)
VALUES (%(move_id)s, %(store)s, %(from_shard)s, %(to_shard)s, %(route)s, %(undo_seconds)s)
ON CONFLICT (store_id) WHERE state IN ('copying', 'catching_up', 'verifying', 'switching') DO NOTHING
RETURNING id;

-- name: read_move
-- role: primary
-- returns: many
-- One move, by primary key.
SELECT id, store_id, from_shard, to_shard, route, state, step, attempt, rows_total, rows_copied, lag_bytes,
    write_pause_ms, verify_ms, error, undo_seconds, undo_until, undo_asked, source_pin, decided_epoch, is_open,
    started_at, finished_at, tidied_at
FROM moves WHERE id = %(move_id)s;

-- name: list_untidied_moves
-- role: primary
-- returns: many
-- What the mover has to do, in order of asking; moves_untidied serves it. `due`: its time for undoing is over, or another
-- move of the same store waits for it to be out of the way. A thousand at most: a range can ask for more at once, and the
-- mover looks ten times a second.
SELECT id, store_id, from_shard, to_shard, route, state, step, attempt, rows_total, rows_copied, lag_bytes,
    write_pause_ms, verify_ms, error, undo_seconds, undo_until, undo_asked, source_pin, decided_epoch, is_open,
    started_at, finished_at, tidied_at,
    undo_until IS NULL OR undo_until <= clock_timestamp() OR EXISTS (
        SELECT FROM moves AS n WHERE n.store_id = m.store_id AND n.tidied_at IS NULL AND n.id > m.id
    ) AS due
FROM moves AS m WHERE tidied_at IS NULL ORDER BY id LIMIT 1000;

-- name: count_untidied_moves
-- role: primary
-- returns: one
-- How many moves still have something on a shard; moves_untidied serves it.
SELECT count(*) FROM moves WHERE tidied_at IS NULL AND %(shard)s IN (from_shard, to_shard);

-- name: count_moves
-- role: primary
-- returns: many
-- For the figures: how many moves that are not tidied up yet are in which state; moves_untidied serves it.
SELECT state, count(*) FROM moves WHERE tidied_at IS NULL GROUP BY state;

-- name: has_work_for_mover
-- role: primary
-- returns: one
-- Whether there is something to do and nobody who does it: each worker asks now and then. moves_untidied serves it.
SELECT EXISTS (SELECT FROM moves WHERE tidied_at IS NULL)
    AND NOT EXISTS (SELECT FROM live_mover);

-- name: ask_to_undo
-- role: primary
-- returns: many
-- Has a move stopped before its switch, or undone after it, while there is time for that and no later move of the store
-- begins where this one has ended; else no row.
UPDATE moves AS m SET undo_asked = true
WHERE id = %(move_id)s AND tidied_at IS NULL AND (
    state IN ('copying', 'catching_up', 'verifying', 'switching')
    OR (state = 'done' AND undo_until > clock_timestamp())
) AND NOT EXISTS (SELECT FROM moves AS n WHERE n.store_id = m.store_id AND n.tidied_at IS NULL AND n.id > m.id)
RETURNING id;

-- name: find_undoing
-- role: primary
-- returns: many
-- The store's move that is being undone, if one is; moves_untidied serves it.
SELECT id FROM moves WHERE store_id = %(store)s AND tidied_at IS NULL AND undo_asked;

-- name: take_mover_lease
-- role: primary
-- returns: many
-- Become the mover, with a term of one's own, for as long as this connection lasts; no row while another one is.
UPDATE mover
SET term = term + 1, holder = %(holder)s, until = clock_timestamp() + %(seconds)s * interval '1 second',
    session = (SELECT concat_ws(' ', pid, backend_start) FROM pg_stat_activity WHERE pid = pg_backend_pid())
WHERE NOT EXISTS (SELECT FROM live_mover)
RETURNING term;

-- name: renew_mover_lease
-- role: primary
-- returns: many
-- No row where another one has taken over.
UPDATE mover SET until = clock_timestamp() + %(seconds)s * interval '1 second' WHERE term = %(term)s RETURNING term;

-- name: release_mover_lease
-- role: primary
-- returns: none
-- Leave it to the next at once.
UPDATE mover SET until = '-infinity' WHERE term = %(term)s;

-- name: hold_mover_term
-- role: primary
-- returns: many
-- First in a transaction of the mover's: no row where another one has taken over, and until its end nobody can.
SELECT term FROM mover WHERE term = %(term)s FOR SHARE;

-- name: set_move_step
-- role: primary
-- returns: none
-- What the move is about to do, before the decision.
UPDATE moves SET state = %(state)s, step = %(step)s WHERE id = %(move_id)s AND decided_epoch IS NULL;

-- name: note_move_step
-- role: primary
-- returns: none
-- What hinders the move.
UPDATE moves SET step = %(step)s WHERE id = %(move_id)s;

-- name: set_move_progress
-- role: primary
-- returns: none
-- For whoever watches.
UPDATE moves
SET rows_total = coalesce(%(rows_total)s, rows_total), rows_copied = coalesce(%(rows_copied)s, rows_copied),
    lag_bytes = %(lag_bytes)s
WHERE id = %(move_id)s;

-- name: hold_undecided_move
-- role: primary
-- returns: many
-- Before anything is taken back: no row where the move was decided. It waits for a decision that is still being
-- committed, for that holds the row.
UPDATE moves SET step = %(step)s WHERE id = %(move_id)s AND decided_epoch IS NULL RETURNING id;

-- name: hold_undoing_move
-- role: primary
-- returns: many
-- As hold_undecided_move, before a move that is done is undone: no row where that has been decided.
UPDATE moves SET step = %(step)s WHERE id = %(move_id)s AND state = 'done' AND undo_asked AND is_open RETURNING id;

-- name: begin_move_attempt
-- role: primary
-- returns: none
-- Another try, from the beginning.
UPDATE moves
SET state = 'copying', attempt = attempt + 1, rows_copied = 0, rows_total = NULL, lag_bytes = NULL,
    step = %(step)s
WHERE id = %(move_id)s AND decided_epoch IS NULL;

-- name: decide_move
-- role: primary
-- returns: none
-- The decision, in one transaction with the map's new epoch. Whoever asked for the move to be taken back until now, when
-- it was too late to stop, has it undone. With the rows that were copied goes the store's own.
UPDATE moves
SET state = %(state)s, step = %(step)s, decided_epoch = %(epoch)s, decided_at = clock_timestamp(), is_open = false,
    at_system_identifier = %(system_identifier)s, at_timeline = %(timeline)s, at_lsn = %(lsn)s,
    source_pin = coalesce(source_pin, %(source_pin)s::json), undo_asked = undo_asked AND %(state)s = 'switching',
    rows_total = rows_total + (%(state)s = 'switching')::integer,
    rows_copied = rows_copied + (%(state)s = 'switching')::integer, lag_bytes = NULL
WHERE id = %(move_id)s;

-- name: open_move
-- role: primary
-- returns: none
-- The new home takes writes; what is left is to tidy up, after the time for undoing.
UPDATE moves
SET state = %(state)s, step = %(step)s, is_open = true, finished_at = clock_timestamp(),
    write_pause_ms = coalesce(%(write_pause_ms)s, write_pause_ms), verify_ms = coalesce(%(verify_ms)s, verify_ms),
    undo_until = CASE
        WHEN %(state)s = 'done' THEN clock_timestamp() + undo_seconds * interval '1 second'
    END
WHERE id = %(move_id)s;

-- name: fail_move
-- role: primary
-- returns: none
-- It did not come to a decision: the store stays where it is.
UPDATE moves
SET state = %(state)s, step = 'tidies up', error = %(error)s, finished_at = clock_timestamp(), lag_bytes = NULL
WHERE id = %(move_id)s AND decided_epoch IS NULL;

-- name: refuse_undo
-- role: primary
-- returns: none
-- It could not be undone, and stays done.
UPDATE moves SET undo_asked = false, undo_until = clock_timestamp(), error = %(error)s WHERE id = %(move_id)s;

-- name: finish_move
-- role: primary
-- returns: none
-- Nothing of it is left.
UPDATE moves SET tidied_at = clock_timestamp(), step = '' WHERE id = %(move_id)s;

-- name: register_resource
-- role: primary
-- returns: none
-- Before it is made.
INSERT INTO move_resources (move_id, shard, kind, name) VALUES (%(move_id)s, %(shard)s, %(kind)s, %(name)s)
ON CONFLICT DO NOTHING;

-- name: forget_resource
-- role: primary
-- returns: none
-- When it is gone.
DELETE FROM move_resources
WHERE move_id = %(move_id)s AND shard = %(shard)s AND kind = %(kind)s AND name = %(name)s;

-- name: list_resources
-- role: primary
-- returns: many
-- What there may be of a move.
SELECT shard, kind, name FROM move_resources WHERE move_id = %(move_id)s;

-- name: list_resource_names
-- role: primary
-- returns: many
-- All names that are somebody's on a shard; what is called like a move's and is not among them belongs to nobody.
SELECT name FROM move_resources WHERE shard = %(shard)s;

-- name: set_pin
-- role: primary
-- returns: none
-- One store lives on this shard, whatever ranges and ring say.
INSERT INTO pins (store_id, shard, stays) VALUES (%(store)s, %(shard)s, %(stays)s)
ON CONFLICT (store_id) DO UPDATE SET shard = excluded.shard, stays = excluded.stays;

-- name: delete_pin
-- role: primary
-- returns: none
-- Ranges and ring decide again.
DELETE FROM pins WHERE store_id = %(store)s;

-- name: lock_out_moves
-- role: primary
-- returns: one
-- Held by a migration, for the session: no move begins meanwhile. False while moves are under way. 7306 is its number.
SELECT pg_try_advisory_lock(7306);

-- name: lock_out_migrations
-- role: primary
-- returns: one
-- Held by the mover while moves are under way, for the session. False while a migration runs.
SELECT pg_try_advisory_lock_shared(7306);

-- name: find_move_under_way
-- role: primary
-- returns: many
-- The move that a store is on, if it is; moves_under_way serves it.
SELECT id FROM moves
WHERE store_id = %(store)s AND state IN ('copying', 'catching_up', 'verifying', 'switching');

-- name: list_shown_moves
-- role: primary
-- returns: many
-- For the control room: what is under way, the oldest first, twenty at most, and the last five that ended; moves_untidied
-- and the primary key serve it.
(
    SELECT id, store_id, from_shard, to_shard, route, state, step, attempt, rows_total, rows_copied, lag_bytes,
        write_pause_ms, verify_ms, error, undo_seconds, undo_until, undo_asked, source_pin, decided_epoch, is_open,
        started_at, finished_at, tidied_at
    FROM moves WHERE tidied_at IS NULL ORDER BY id LIMIT 20
) UNION ALL (
    SELECT id, store_id, from_shard, to_shard, route, state, step, attempt, rows_total, rows_copied, lag_bytes,
        write_pause_ms, verify_ms, error, undo_seconds, undo_until, undo_asked, source_pin, decided_epoch, is_open,
        started_at, finished_at, tidied_at
    FROM moves WHERE tidied_at IS NOT NULL ORDER BY id DESC LIMIT 5
);
