-- ARGV: token, as the store counts it. 1 if exactly that grant was ended.
local value = redis.call('GET', L)
local is_ours = value and string.find(value, '^%x+%.%x+%.%d+%..*%.%d+$')
if not is_ours or string.sub(value, -16) ~= ARGV[1] then return unless_replica(0) end
-- First a write that needs no memory: a holder is told of no loss that the server then refuses.
redis.call('ZREM', Q, '')
redis.pcall('PUBLISH', WAKE .. string.sub(value, 34, 49), 'lost ' .. string.sub(value, 1, 32))
hand_on('')
return 1
