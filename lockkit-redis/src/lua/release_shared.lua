-- ARGV: the member's entry and its token as they were granted, '1' if an attempt of the request may still arrive,
-- or ''. Answers 0 if it was not held any more, 1 if it was.
local E, TOKEN = string.sub(ARGV[1], 1, -18), string.sub(ARGV[1], -16)
if ARGV[2] ~= '' then bury(string.sub(E, 1, 32)) end
local token = is_group(redis.call('GET', L)) and purge(milliseconds()) and token_of(E)
-- An attempt that came late may have queued the request once more, or been granted.
if token ~= TOKEN then redis.call('ZREM', Q, E) end
if token then leave(E) end
return token == TOKEN and 1 or 0
