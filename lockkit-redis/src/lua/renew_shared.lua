-- ARGV: the member's entry and its token as they were granted, ttl. 1 if it was extended.
local E, TOKEN = string.sub(ARGV[1], 1, -18), string.sub(ARGV[1], -16)
-- First a write that needs no memory: the server refuses nothing after it.
redis.call('ZREM', X, '')
if not (is_group(redis.call('GET', L)) and purge(milliseconds()) and token_of(E) == TOKEN) then return 0 end
join(E, TOKEN, ARGV[2])
-- A list finds a held lock by this key.
if redis.call('PEXPIRE', F, KEPT) == 0 then redis.call('SET', F, TOKEN, 'PX', KEPT) end
return 1
