-- Decides whether one more request fits into every one of its policies, and counts it in each of them if it does.
--
-- KEYS[i]         the hits that policy i has admitted in its window: a list, see below
-- ARGV[2i - 1]    policy i: how many requests any window may hold, at least 1
-- ARGV[2i]        policy i: the window, in milliseconds
-- returns         {1 if admitted else 0, then for each policy: how many more fit now, milliseconds}: after these, more
--                 fit than now; where none fit, the next one does
-- Atomic: all policies look before any counts, so a request that one refuses is counted in none.
--
-- The list of n hits, oldest first, has n + 1 elements:
--
--     time of the oldest, step to the 2nd, ..., step to the n-th, time of the newest          (milliseconds)
--
-- A step is a small number, of which a list keeps 1 to 4 bytes and one byte more: that is all that a hit takes.
--
-- Times are cut to milliseconds, so a hit leaves when it is more than a window old, not when it is just as old: two
-- times that differ by w + 1 here are more than w apart. The clock is this server's. Set back, it makes the hits older
-- than they look: they are moved back with it, as if no time had passed, and so are kept rather too long.

-- How many steps one look takes while old hits are left out.
local STEPS = 100
-- Beyond its last use a list lives so much longer than its window: the server may time a key's end by a clock that it
-- read a moment before this script did.
local LINGER = 1000

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Leaves out what is older than the window. Returns the number of hits left, the oldest's time and the newest's.
local function look(key, window)
    local newest = tonumber(redis.call('LINDEX', key, -1))
    if not newest then
        return 0
    end
    local oldest = tonumber(redis.call('LINDEX', key, 0))
    if newest > now then
        oldest = oldest - (newest - now)
        newest = now
        redis.call('LSET', key, 0, oldest)
        redis.call('LSET', key, -1, newest)
    end
    if now - newest > window then
        redis.call('DEL', key)
        return 0
    end
    local left_out = 0
    while now - oldest > window do
        local steps = redis.call('LRANGE', key, left_out + 1, left_out + STEPS)
        if #steps == 0 then
            -- The newest is not too old, so a list of this script's making ends the loop at a step. This is another's.
            redis.call('DEL', key)
            return 0
        end
        for _, step in ipairs(steps) do
            oldest = oldest + step
            left_out = left_out + 1
            if now - oldest <= window then
                break
            end
        end
    end
    if left_out > 0 then
        redis.call('LSET', key, left_out, oldest)
        redis.call('LTRIM', key, left_out, -1)
    end
    return redis.call('LLEN', key) - 1, oldest, newest
end

local counts, oldests, newests = {}, {}, {}
local admitted = 1
for i, key in ipairs(KEYS) do
    counts[i], oldests[i], newests[i] = look(key, tonumber(ARGV[2 * i]))
    if counts[i] >= tonumber(ARGV[2 * i - 1]) then
        admitted = 0
    end
end

local answer = {admitted}
for i, key in ipairs(KEYS) do
    local quota, window = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
    local first = oldests[i] or now
    if admitted == 1 then
        if counts[i] == 0 then
            redis.call('RPUSH', key, now, now)
        else
            redis.call('LSET', key, -1, now - newests[i])
            redis.call('RPUSH', key, now)
        end
        redis.call('PEXPIREAT', key, now + window + LINGER)
        counts[i] = counts[i] + 1
    elseif counts[i] > quota then
        -- The quota was larger: a request fits when as many have left as are too many, and one more.
        for _, step in ipairs(redis.call('LRANGE', key, 1, counts[i] - quota)) do
            first = first + step
        end
    end
    answer[2 * i] = math.max(quota - counts[i], 0)
    answer[2 * i + 1] = first + window - now
end
return answer
