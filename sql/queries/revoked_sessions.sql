-- name: revoke_session
-- role: primary
-- returns: one
-- Signs a session out before its token runs out; no row where it was signed out before.
INSERT INTO revoked_sessions (store_id, session_id, expires_at)
VALUES (%(store_id)s, %(session_id)s, %(expires_at)s)
ON CONFLICT DO NOTHING
RETURNING session_id;

-- name: is_session_revoked
-- role: primary
-- returns: one
-- Whether a session was signed out; revoked_sessions_pkey serves it. From the primary: signing out is at once.
SELECT EXISTS (SELECT FROM revoked_sessions AS r WHERE r.store_id = s.store_id AND r.session_id = %(session_id)s)
FROM stores AS s
WHERE s.store_id = %(store_id)s;

-- name: sweep_revoked_sessions
-- role: primary
-- returns: none
-- spans: stores
-- Forgets sessions whose token has run out by itself, a batch at a time; revoked_sessions_expiry serves it. Not of a
-- store on the move, whose rows are compared between two shards.
DELETE FROM revoked_sessions
WHERE (store_id, session_id) IN (
    SELECT r.store_id, r.session_id FROM revoked_sessions AS r
    WHERE r.expires_at < now() AND NOT EXISTS (SELECT FROM moving_stores AS m WHERE m.id = r.store_id)
    ORDER BY r.expires_at LIMIT %(batch)s
);
