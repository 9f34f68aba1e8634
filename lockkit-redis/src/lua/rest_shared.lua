-- ARGV: the member's entry and its token as they were granted, '1' if an attempt of the request may still arrive,
-- or '', ms. The member stays for so long under an entry that no request has. Answers 0 if it was not held any more,
-- 1 if it was. Repeated, it never makes the member stay longer.
local E, TOKEN = string.sub(ARGV[1], 1, -18), string.sub(ARGV[1], -16)
local REST = string.sub(E, 1, 33) .. 't' .. string.sub(E, 35)
if ARGV[2] ~= '' then bury(string.sub(E, 1, 32)) end
-- First a write that needs no memory: the server refuses nothing after it.
redis.call('ZREM', X, '')
local now = milliseconds()
if not (is_group(redis.call('GET', L)) and purge(now)) then return 0 end
local is_first = token_of(E) == TOKEN
if not is_first and token_of(REST) ~= TOKEN then return 0 end
if is_first or tonumber(redis.call('ZSCORE', S, REST)) > now + tonumber(ARGV[3]) then
  redis.call('ZREM', S, E)
  redis.call('ZREM', M, E)
  join(REST, TOKEN, ARGV[3])
end
if redis.call('PEXPIRE', F, KEPT) == 0 then redis.call('SET', F, TOKEN, 'PX', KEPT) end
return 1
