-- Takes out of a guest's cart what a customer's cart has of it.
--
-- KEYS[1]  the guest's cart: a hash of product id -> quantity
-- KEYS[2]  the cart's version
-- KEYS[3]  the promise to a customer
-- ARGV[1]  how long an untouched cart is kept, in seconds
-- ARGV[2]  which incarnation of the cart was joined
-- ARGV[3]  the name of the next one
-- ARGV[4…] what was joined: product id, quantity, ...
-- returns  1, or 0 where the cart is of another incarnation by now: it was done before, or the cart was emptied
-- Atomic: a line put in since it was read stays, as do units put in since. Done once, for a new incarnation begins. It
-- asks for no mark: what has moved must go, and is shown to nobody.
local version = redis.call('GET', KEYS[2])
if not version or string.match(version, '^[^.]+') ~= ARGV[2] then
    return 0
end
for i = 4, #ARGV, 2 do
    local rest = tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or 0) - tonumber(ARGV[i + 1])
    if rest > 0 then
        redis.call('HSET', KEYS[1], ARGV[i], string.format('%d', rest))
    else
        redis.call('HDEL', KEYS[1], ARGV[i])
    end
end
redis.call('DEL', KEYS[3])
if redis.call('EXISTS', KEYS[1]) == 1 then
    redis.call('SET', KEYS[2], ARGV[3] .. '.' .. ARGV[3], 'EX', ARGV[1])
    redis.call('EXPIRE', KEYS[1], ARGV[1])
else
    redis.call('DEL', KEYS[2])
end
return 1
