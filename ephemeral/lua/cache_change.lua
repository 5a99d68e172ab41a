-- Notes that products of a store were changed: entries that depend on them no longer count, fills that have not seen it
-- are refused.
--
-- KEYS[1]  the store's state, as cache_look.lua
-- KEYS[2]  the store's entries
-- ARGV[1]  the epoch of the shard map that the write was routed by
-- ARGV[2]  the position behind the commit, 10 digits of timeline and 20 of LSN; empty where nobody knows it
-- ARGV[3]  how long the state is kept, in seconds: longer than a replica that is read may lag
-- ARGV[4], ARGV[5], ...  the changes: C (a product's own fields) or S (what lists are made of: a product came, went, or is
--          found by other words), then the product's id as 39 digits
-- returns  how many changes there were so far
-- Atomic: whoever reads an entry afterwards sees all of them.
--
-- It is noted also where the server is full: a script is refused at its first write that may take memory, and not once
-- it has written without. What is there can still be read then, so it must be voided.
local CHANGES = 128

redis.call('EXPIRE', KEYS[1], ARGV[3])
local state = redis.call('HMGET', KEYS[1], 'epoch', 'g', 'at')
local epoch, g, at = tonumber(state[1] or 0), tonumber(state[2] or 0), state[3] or ''
if epoch < tonumber(ARGV[1]) then
    redis.call('DEL', KEYS[1], KEYS[2])
    g, at, epoch = 0, '', tonumber(ARGV[1])
end
local noted = {'epoch', string.format('%.0f', epoch)}
for number = 4, #ARGV do
    g = g + 1
    noted[#noted + 1] = 'c:' .. g % CHANGES
    noted[#noted + 1] = ARGV[number]
end
noted[#noted + 1], noted[#noted + 2] = 'g', string.format('%.0f', g)
if ARGV[2] == '' then
    noted[#noted + 1], noted[#noted + 2] = 'void', string.format('%.0f', g)
elseif at < ARGV[2] then
    noted[#noted + 1], noted[#noted + 2] = 'at', ARGV[2]
end
redis.call('HSET', KEYS[1], unpack(noted))
redis.call('EXPIRE', KEYS[1], ARGV[3])
return g
