-- ARGV: the lock's value as it was granted, ttl. 1 if it was extended.
if redis.call('GET', L) ~= ARGV[1] then return unless_replica(0) end
redis.call('PEXPIRE', L, ARGV[2])
-- A list finds a held lock by this key.
if redis.call('PEXPIRE', F, KEPT) == 0 then redis.call('SET', F, string.sub(ARGV[1], -16), 'PX', KEPT) end
return 1
