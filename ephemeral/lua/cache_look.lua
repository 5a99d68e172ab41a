-- Finds a cached answer that is new enough, or gives out the right to make it.
--
-- KEYS[1]  the store's state: a hash of epoch, g (how many changes there were), at (the position of the latest), void,
--          c:0 ... c:127 (the latest changes), and leases
-- KEYS[2]  the store's entries: a hash of name -> "expires took g timeline lsn low high ...\nbytes"; its field # counts bytes
-- ARGV[1]  the entry's name
-- ARGV[2]  the epoch of the caller's shard map
-- ARGV[3]  a new lease's id
-- ARGV[4]  how long a lease lasts, in ms
-- ARGV[5]  the timeline that the entry must have been read on, 10 digits
-- ARGV[6]  the LSN that it must have been read at or behind, 20 digits
-- ARGV[7]  -ln(random): by how many times the making's duration it is refreshed early (XFetch)
-- ARGV[8]  1: whatever entry there is does not count
-- ARGV[9]  how long the state is kept, in seconds
-- ARGV[10] how long an entry is good at most, in ms
-- returns  {'hit', entry} · {'lease', at}: make it, and fill in · {'wait'}: another one makes it · {'moved'}: the
--          caller's map is older than the store's
-- Atomic: of any number of callers one gets the lease, and nothing changes between judging an entry and handing it out.
--
-- Positions and ids are compared as text, as position_remember.lua says why. An entry on another timeline is not judged
-- here: that takes the timelines' history, which only the caller has. It does not count.
-- What is good for longer than anything can be was made before the clock was set back. It does not count either.
local CHANGES = 128

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease_name = 'lease:' .. ARGV[1]
local state = redis.call('HMGET', KEYS[1], 'epoch', 'g', 'at', lease_name)
local g, at, lease = tonumber(state[2] or 0), state[3] or '', state[4]
local epoch = tonumber(state[1] or 0)
if epoch > tonumber(ARGV[2]) then
    return {'moved'}
end
if epoch < tonumber(ARGV[2]) then
    redis.call('DEL', KEYS[1], KEYS[2])
    g, at, lease = 0, '', false
end

local function changed_since(seen, low, high)
    if seen == g then
        return false
    end
    if seen > g or g - seen > CHANGES then
        return true
    end
    local names = {}
    for number = seen + 1, g do
        names[#names + 1] = 'c:' .. number % CHANGES
    end
    for _, change in ipairs(redis.call('HMGET', KEYS[1], unpack(names))) do
        -- A change of kind S also counts for the pages above it: it may be what comes next there.
        local id = change and change:sub(2)
        if not id or (id <= high and (id >= low or change:sub(1, 1) == 'S')) then
            return true
        end
    end
    return false
end

local entry = ARGV[8] ~= '1' and redis.call('HGET', KEYS[2], ARGV[1])
local due = true
if entry then
    local expires, took, seen, timeline, lsn, low, high = entry:match('^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) ')
    local left = tonumber(expires or 0) - now
    if left <= 0 or left > tonumber(ARGV[10]) or timeline ~= ARGV[5] or lsn < ARGV[6]
        or changed_since(tonumber(seen), low, high) then
        entry = false
    else
        due = took * tonumber(ARGV[7]) >= left
    end
end
if entry and not due then
    return {'hit', entry}
end
local held_by, held_until = (lease or ''):match('^(%x+) (%d+) ')
local held_for = tonumber(held_until or 0) - now
if held_by ~= ARGV[3] and held_for > 0 and held_for <= tonumber(ARGV[4]) then
    if entry then
        return {'hit', entry}
    end
    return {'wait'}
end
local granted = string.format('%s %.0f %.0f %.0f', ARGV[3], now + ARGV[4], now, g)
redis.call('HSET', KEYS[1], 'epoch', ARGV[2], lease_name, granted)
redis.call('EXPIRE', KEYS[1], ARGV[9])
return {'lease', at}
