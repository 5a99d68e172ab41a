-- Sets one line of a cart, or removes it.
--
-- KEYS[1]  the cart: a hash of product id -> quantity
-- KEYS[2]  the mark of a session that was lately found not to be signed out
-- KEYS[3]  the cart's version: INCARNATION.CHANGE. The second part every change replaces; the first one a cart has from
--          its first line until it is emptied as a whole, so that a join knows what it has had (cart_join.lua)
-- ARGV[1]  how long an untouched cart is kept, in seconds
-- ARGV[2]  the product's id
-- ARGV[3]  the quantity; 0 removes the line
-- ARGV[4]  how many lines a cart may have
-- ARGV[5]  a new name, for the change, and for the incarnation where one begins
-- ARGV[6]  1: only where the line is there already
-- returns  nil where the session has no mark; 'full' where one line more is too many; 'absent' where the line is not
--          there and ARGV[6] asks for it; else {version, product id, quantity, ...}
-- Atomic: two requests that put lines at once both count against the bound.
if redis.call('EXISTS', KEYS[2]) == 0 then
    return nil
end
local present = redis.call('HEXISTS', KEYS[1], ARGV[2]) == 1
if tonumber(ARGV[3]) == 0 then
    redis.call('HDEL', KEYS[1], ARGV[2])
elseif not present and ARGV[6] == '1' then
    return 'absent'
elseif not present and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) then
    return 'full'
else
    redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
end
local version = (string.match(redis.call('GET', KEYS[3]) or '', '^[^.]+') or ARGV[5]) .. '.' .. ARGV[5]
redis.call('SET', KEYS[3], version, 'EX', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[1])
local cart = redis.call('HGETALL', KEYS[1])
table.insert(cart, 1, version)
return cart
