-- Empties a cart.
--
-- KEYS[1]  the cart
-- KEYS[2]  the mark of a session that was lately found not to be signed out
-- KEYS[3]  the cart's version
-- ARGV[1]  the version to empty, or '' for whichever it has
-- returns  nil where the session has no mark, 1 where the cart was emptied, 0 where it had another version
-- Atomic: a line put between a checkout's reading and its clearing changes the version, and stays.
if redis.call('EXISTS', KEYS[2]) == 0 then
    return nil
end
if ARGV[1] ~= '' and redis.call('GET', KEYS[3]) ~= ARGV[1] then
    return 0
end
redis.call('DEL', KEYS[1], KEYS[3])
return 1
