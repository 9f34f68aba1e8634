-- ARGV: token, as the store counts it. 1 if exactly that grant was ended.
local holder = redis.call('GET', L)
local f = redis.call('HMGET', F, 'id', 'token')
if not holder or f[1] ~= holder or f[2] ~= ARGV[1] then return unless_replica(0) end
redis.call('DEL', L)
push('lost', holder, 0)
hand_over()
return 1
