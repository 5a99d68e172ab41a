-- Adds a guest's lines to a customer's cart, once.
--
-- KEYS[1]  the customer's cart: a hash of product id -> quantity
-- KEYS[2]  the mark of the customer's new session, made before the guest's cart was read
-- KEYS[3]  the customer's cart's version
-- KEYS[4]  what was joined of this incarnation of the guest's cart: a hash of product id -> quantity, 0 of what did
--          not fit
-- ARGV[1]  how long an untouched cart is kept, in seconds
-- ARGV[2]  a new name, for the change
-- ARGV[3]  how many lines a cart may have
-- ARGV[4]  how many of one product a cart may have; what two carts have beyond it together is dropped
-- ARGV[5]  how long to remember what was joined, in seconds: as long as the guest's session can be used
-- ARGV[6…] the guest's lines: product id, quantity, ...
-- returns  nil where the session has no mark, else what was joined of this incarnation: {product id, quantity, ...}
-- Atomic: who comes first decides for the incarnation, also what is put in later; all others are told that. Who is so
-- late that this may be forgotten finds no mark either: it is older, and lives half as long.
if redis.call('EXISTS', KEYS[2]) == 0 then
    return nil
end
if redis.call('EXISTS', KEYS[4]) == 1 then
    return redis.call('HGETALL', KEYS[4])
end
local changed = false
for i = 6, #ARGV, 2 do
    local product, joined = ARGV[i], '0'
    local present = redis.call('HGET', KEYS[1], product)
    if present or redis.call('HLEN', KEYS[1]) < tonumber(ARGV[3]) then
        joined = ARGV[i + 1]
        local sum = math.min(tonumber(present or 0) + tonumber(joined), tonumber(ARGV[4]))
        redis.call('HSET', KEYS[1], product, string.format('%d', sum))
        changed = true
    end
    redis.call('HSET', KEYS[4], product, joined)
end
if changed then
    local incarnation = string.match(redis.call('GET', KEYS[3]) or '', '^[^.]+') or ARGV[2]
    redis.call('SET', KEYS[3], incarnation .. '.' .. ARGV[2], 'EX', ARGV[1])
    redis.call('EXPIRE', KEYS[1], ARGV[1])
end
redis.call('EXPIRE', KEYS[4], ARGV[5])
return redis.call('HGETALL', KEYS[4])
