-- Takes several locks together, for a while, or keeps them for another one.
--
-- KEYS      the locks, of one hash tag; each holds its owner
-- ARGV[1]   the owner: another one for every attempt
-- ARGV[2]   how long they last from now on, in milliseconds
-- returns   the owner of the first lock that is somebody else's, and then nothing was changed; ARGV[1] where all were
--           this owner's before; '' where any was free: taken the first time, or set again on a server that came back
--           without its memory
-- Atomic: all of them or none, so that two who want the same two locks do not each get one here.
local all_mine = true
for i = 1, #KEYS do
    local owner = redis.call('GET', KEYS[i])
    if not owner then
        all_mine = false
    elseif owner ~= ARGV[1] then
        return owner
    end
end
for i = 1, #KEYS do
    redis.call('SET', KEYS[i], ARGV[1], 'PX', ARGV[2])
end
return all_mine and ARGV[1] or ''
