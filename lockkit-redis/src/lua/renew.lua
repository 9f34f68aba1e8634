-- ARGV: id, life of a waiter, ttl. 1 if it was extended. A mere reservation is not renewed.
if redis.call('GET', L) ~= ID or redis.call('HGET', F, 'id') ~= ID then return unless_replica(0) end
redis.call('PEXPIRE', L, ARGV[3])
redis.call('PEXPIRE', F, FENCE + ARGV[3])
return 1
