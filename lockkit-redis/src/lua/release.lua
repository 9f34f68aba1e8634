-- ARGV: the lock's value as it was granted, '1' if an attempt of the request may still arrive, or ''. Answers
-- 0 if it was not held any more, 1 if it was, or the word for the next one, where that is a request of this client.
local ID = string.sub(ARGV[1], 1, 32)
if ARGV[2] ~= '' then bury(ID) end
if value == ARGV[1] then return hand_on(string.sub(ARGV[1], 34, 49), head) or 1 end
-- An attempt that came late may have queued the request once more, or been granted.
redis.call('ZREM', Q, string.sub(ARGV[1], 1, -18))
-- One that rests has another client's name.
if value and string.sub(value, 1, 49) == string.sub(ARGV[1], 1, 49) then hand_on('') end
return 0
