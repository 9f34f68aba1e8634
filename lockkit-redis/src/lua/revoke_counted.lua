-- ARGV: token, as the store counts it. 1 if exactly that grant was ended.
open()
local entry = LIVE > 0 and redis.call('ZRANGE', M, ARGV[1], ARGV[1], 'BYSCORE')[1]
if not entry then return unless_replica(0) end
-- First a write that needs no memory: a holder is told of no loss that the server then refuses.
redis.call('ZREM', Q, '')
redis.pcall('PUBLISH', WAKE .. client_of(entry), 'lost ' .. string.sub(entry, 1, 32))
vacate(entry, '')
return 1
