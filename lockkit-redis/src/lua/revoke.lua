-- ARGV: token, as the store counts it. 1 if exactly that grant was ended.
local holder = redis.call('GET', L)
if not holder or not granted_to(holder) or redis.call('HGET', F, 'token') ~= ARGV[1] then return 0 end
redis.call('DEL', L)
push('lost', holder, 0)
hand_over()
return 1
