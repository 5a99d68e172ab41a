-- Raises what is remembered for one credential; what is further on already stays.
--
-- KEYS[1]  the credential's positions: a hash of system identifier -> position
-- ARGV[1]  how long they are kept from now on, in seconds
-- ARGV[2], ARGV[3], ...  pairs: a system identifier, and a position as 30 digits: 10 of timeline, 20 of LSN
-- returns  1
-- Atomic: of two writes that are remembered at once, the one further on stays.
--
-- Positions are compared as text: a Lua number is exact to 2^53 only. Of one width they order as their numbers do, and
-- of digits alone they do so whatever the server's locale, by which Lua compares. Anything else was not written here.
for i = 2, #ARGV, 2 do
    local known = redis.call('HGET', KEYS[1], ARGV[i])
    if not known or #known ~= #ARGV[i + 1] or known:find('%D') or known < ARGV[i + 1] then
        redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    end
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
