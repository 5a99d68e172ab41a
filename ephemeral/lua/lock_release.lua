-- Lets go of locks.
--
-- KEYS      the locks, of one hash tag; each holds its owner
-- ARGV[1]   the owner
-- returns   how many were this owner's
-- Atomic: a lock that ran out and was taken by another meanwhile is not deleted.
local released = 0
for i = 1, #KEYS do
    if redis.call('GET', KEYS[i]) == ARGV[1] then
        released = released + redis.call('DEL', KEYS[i])
    end
end
return released
