-- lock: none that anyone waits for: every table is new.
-- Stores on their way from one shard to another, and who drives them. docs/decisions/0016-moves.md has the states.

-- One row a move. Each step is written here before it is taken; names of what it makes stand in move_resources.
-- `decided_epoch` is the decision: with it the store lives on the other shard, whatever becomes of whoever drives it;
-- the position is the new home's, behind all that the old one had. `is_open`: the new home takes writes.
-- The shards are no foreign keys: moves that are over stay, whatever becomes of the shards.
-- `route` is what leads to the new home where ranges and ring do not: a pin, which for `stay` is nobody's wish but where
-- the store happens to live; for `pin` there is one in any case.
-- `source_pin` is the pin that the move replaced, for undoing it. `tidied_at`: nothing of it is left on any shard.
CREATE TABLE moves (
    id                    uuid PRIMARY KEY,
    store_id              uuid NOT NULL,
    from_shard            text NOT NULL,
    to_shard              text NOT NULL CHECK (to_shard <> from_shard),
    route                 text NOT NULL CHECK (route IN ('auto', 'pin', 'unpin', 'stay')),
    state                 text NOT NULL DEFAULT 'copying' CHECK (state IN (
        'copying', 'catching_up', 'verifying', 'switching', 'done', 'failed', 'rolled_back'
    )),
    step                  text NOT NULL DEFAULT 'waits for its turn',
    attempt               integer NOT NULL DEFAULT 0,
    rows_total            bigint,
    rows_copied           bigint NOT NULL DEFAULT 0,
    lag_bytes             bigint,
    write_pause_ms        double precision,
    verify_ms             double precision,
    error                 text,
    undo_seconds          double precision NOT NULL CHECK (undo_seconds >= 0),
    undo_until            timestamptz,
    undo_asked            boolean NOT NULL DEFAULT false,
    source_pin            json,
    decided_epoch         bigint,
    decided_at            timestamptz,
    at_system_identifier  bigint,
    at_timeline           bigint,
    at_lsn                bigint,
    is_open               boolean NOT NULL DEFAULT false,
    started_at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at           timestamptz,
    tidied_at             timestamptz
);

-- A store is on one move at a time.
CREATE UNIQUE INDEX moves_under_way ON moves (store_id)
WHERE state IN ('copying', 'catching_up', 'verifying', 'switching');
CREATE INDEX moves_untidied ON moves (id) WHERE tidied_at IS NULL;
CREATE INDEX moves_decided ON moves (decided_at) WHERE decided_epoch IS NOT NULL;

-- What a move has made on a shard, or was about to: registered first, removed last.
CREATE TABLE move_resources (
    move_id uuid NOT NULL REFERENCES moves,
    shard   text NOT NULL,
    kind    text NOT NULL CHECK (kind IN ('publication', 'slot', 'subscription', 'rows', 'mark')),
    name    text NOT NULL,
    PRIMARY KEY (move_id, shard, kind, name)
);

-- The one mover. It holds its lease by renewing it; `term` rises with each that takes over, and whatever a mover writes,
-- here or on a shard, is refused once there is a higher one. `session` is the server process of a connection that it
-- keeps: with that gone its lease is over at once. A mover that is alive all the same finds the higher term.
CREATE TABLE mover (
    one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    term    bigint NOT NULL,
    holder  text NOT NULL,
    session text NOT NULL DEFAULT '',
    until   timestamptz NOT NULL
);

CREATE VIEW live_mover AS
SELECT m.term FROM mover AS m JOIN pg_stat_activity AS a ON concat_ws(' ', a.pid, a.backend_start) = m.session
WHERE m.until > clock_timestamp();
INSERT INTO mover (term, holder, until) VALUES (0, '', '-infinity');
