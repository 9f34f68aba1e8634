-- ARGV: the lock's value as it was granted, '1' if an attempt of the request may still arrive, or '', ms. The lock
-- stays for so long under a value that no request has: no replay, renewal or release finds it. Answers 0 if it was not
-- held any more, 1 if it was. Repeated, it never makes the lock stay longer.
local REST = string.sub(ARGV[1], 1, 33) .. 'f' .. string.sub(ARGV[1], 35)
if ARGV[2] ~= '' then bury(string.sub(ARGV[1], 1, 32)) end
local value = redis.call('GET', L)
if value ~= ARGV[1] and value ~= REST then return unless_replica(0) end
if value == ARGV[1] or redis.call('PTTL', L) > tonumber(ARGV[3]) then
  -- This write needs no memory: the server refuses nothing after it.
  redis.call('PEXPIRE', L, ARGV[3])
  redis.call('SET', L, REST, 'KEEPTTL')
end
-- A list finds a held lock by this key.
if redis.call('PEXPIRE', F, KEPT) == 0 then redis.call('SET', F, string.sub(ARGV[1], -16), 'PX', KEPT) end
return 1
