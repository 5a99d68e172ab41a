-- Reads a guest's cart for the customer who signs in, and promises it to that one.
--
-- KEYS[1]  the guest's cart: a hash of product id -> quantity
-- KEYS[2]  the mark of a session that was lately found not to be signed out
-- KEYS[3]  the cart's version
-- KEYS[4]  the promise: INCARNATION CUSTOMER
-- ARGV[1]  how long an untouched cart is kept, in seconds
-- ARGV[2]  the customer
-- ARGV[3]  how long the promise is kept, in seconds: as long as the guest's session can be used
-- returns  nil where the session has no mark, {} where there is nothing for this customer, else {version, product id,
--          quantity, ...}
-- Atomic: of two customers who sign in with one guest's session at once, one gets the lines. The promise lasts as long
-- as the cart's incarnation: should the worker die, nobody knows whether that customer has had them already.
if redis.call('EXISTS', KEYS[2]) == 0 then
    return nil
end
local cart = redis.call('HGETALL', KEYS[1])
local version = redis.call('GET', KEYS[3])
if #cart == 0 or not version then
    return {}
end
local incarnation = string.match(version, '^[^.]+')
local promised = redis.call('GET', KEYS[4])
if promised and string.match(promised, '^%S+') == incarnation and promised ~= incarnation .. ' ' .. ARGV[2] then
    return {}
end
redis.call('SET', KEYS[4], incarnation .. ' ' .. ARGV[2], 'EX', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[3], ARGV[1])
table.insert(cart, 1, version)
return cart
