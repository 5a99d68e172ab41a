-- Reads a cart and keeps it for another while.
--
-- KEYS[1]  the cart: a hash of product id -> quantity
-- KEYS[2]  the mark of a session that was lately found not to be signed out
-- KEYS[3]  the cart's version, which every change replaces
-- ARGV[1]  how long an untouched cart is kept, in seconds
-- returns  nil where the session has no mark, else {version, product id, quantity, product id, quantity, ...}
-- Atomic: contents and version belong together.
if redis.call('EXISTS', KEYS[2]) == 0 then
    return nil
end
-- Also where there is none: a server that has become a replica, whose memory may be older, refuses what writes.
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[3], ARGV[1])
local cart = redis.call('HGETALL', KEYS[1])
table.insert(cart, 1, redis.call('GET', KEYS[3]) or '')
return cart
