-- Keeps an answer that was made under a lease, unless something it may not have seen was changed meanwhile.
--
-- KEYS[1]  the store's state, as cache_look.lua
-- KEYS[2]  the store's entries
-- ARGV[1]  the entry's name
-- ARGV[2]  the epoch of the caller's shard map
-- ARGV[3]  the lease's id
-- ARGV[4]  how long the entry is good for, counted from the lease, in ms; 0: give the lease back, keep nothing
-- ARGV[5]  the timeline it was read on, 10 digits
-- ARGV[6]  the LSN up to which it has seen everything, 20 digits
-- ARGV[7]  the lowest product id it depends on, 39 digits
-- ARGV[8]  the highest
-- ARGV[9]  the rest of the entry
-- ARGV[10] how many bytes the store's entries may take
-- returns  'stored' · 'refused': read before the latest change, or the lease is no more · 'late', or the
--          clock was set back · 'full'
-- Atomic: no change comes between the check and the keeping.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease_name = 'lease:' .. ARGV[1]
local state = redis.call('HMGET', KEYS[1], 'epoch', 'g', 'at', 'void', lease_name)
local id, granted, leased_g = (state[5] or ''):match('^(%x+) %d+ (%d+) (%d+)$')
if state[1] ~= ARGV[2] or id ~= ARGV[3] then
    return 'refused'
end
redis.call('HDEL', KEYS[1], lease_name)
local g, at = tonumber(state[2] or 0), state[3] or ''
leased_g, granted = tonumber(leased_g), tonumber(granted)
if g ~= leased_g then
    -- Changed since the lease: good all the same where the read lies at or behind every change, and each said where it is.
    if leased_g < tonumber(state[4] or 0) or at:sub(1, 10) ~= ARGV[5] or ARGV[6] < at:sub(11) then
        return 'refused'
    end
end
local expires = granted + ARGV[4]
if now >= expires or now < granted then
    return 'late'
end

local entry = string.format('%.0f %.0f %.0f %s %s %s %s ', expires, now - granted, g, ARGV[5], ARGV[6], ARGV[7], ARGV[8])
    .. ARGV[9]
if #entry > tonumber(ARGV[10]) then
    return 'full'
end
local bytes = tonumber(redis.call('HGET', KEYS[2], '#') or 0)
bytes = bytes + #entry - redis.call('HSTRLEN', KEYS[2], ARGV[1])
local tries = 64
while bytes > tonumber(ARGV[10]) and tries > 0 do
    -- One at random: a store that wants more than its share throws away its own.
    tries = tries - 1
    local name = redis.call('HRANDFIELD', KEYS[2])
    if not name then
        break
    end
    if name ~= '#' and name ~= ARGV[1] then
        bytes = bytes - redis.call('HSTRLEN', KEYS[2], name)
        redis.call('HDEL', KEYS[2], name)
    end
end
if bytes > tonumber(ARGV[10]) then
    bytes = bytes - #entry
    redis.call('HDEL', KEYS[2], ARGV[1])
    redis.call('HSET', KEYS[2], '#', bytes)
    return 'full'
end
redis.call('HSET', KEYS[2], ARGV[1], entry, '#', string.format('%.0f', bytes))
if redis.call('PTTL', KEYS[2]) < expires - now then
    redis.call('PEXPIRE', KEYS[2], string.format('%.0f', expires - now))
end
return 'stored'
