-- ARGV: the entry and its token as they were granted, '1' if an attempt of the request may still arrive, or ''. Answers
-- 0 if it was not held any more, 1 if it was, or the word for the next one, where that is a request of this client.
local E, TOKEN = string.sub(ARGV[1], 1, -18), string.sub(ARGV[1], -16)
open()
if ARGV[2] ~= '' then bury(string.sub(E, 1, 32)) end
local token = permit_of(E)
if token == TOKEN then return vacate(E, client_of(E)) or 1 end
-- An attempt that came late may have queued the request once more, or been granted.
redis.call('ZREM', Q, E)
if token then vacate(E, '') else hand_out('') end
return 0
