-- ARGV: token, as the store counts it. 1 if exactly that grant was ended.
local value = redis.call('GET', L)
local member = is_group(value) and purge(milliseconds()) and redis.call('ZRANGE', M, ARGV[1], ARGV[1], 'BYSCORE')[1]
local entry = member
if value and string.find(value, '^%x+%.%x+%.%d+%..*%.%d+$') and string.sub(value, -16) == ARGV[1] then entry = value end
if not entry then return unless_replica(0) end
-- First a write that needs no memory: a holder is told of no loss that the server then refuses.
redis.call('ZREM', Q, '')
redis.pcall('PUBLISH', WAKE .. client_of(entry), 'lost ' .. string.sub(entry, 1, 32))
if member then leave(member) else hand_on('') end
return 1
