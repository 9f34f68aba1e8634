-- Run when a client connects, on a name of its own: each command of the other scripts once, so that one
-- which the server does not know, or the user may not run, is told then. Leaves nothing.
redis.call('GET', L)
redis.call('TYPE', L)
redis.call('PTTL', L)
redis.call('HGET', F, 'id')
redis.call('HMGET', F, 'id', 'token')
redis.call('ZCARD', Q)
redis.call('ZRANGE', Q, 0, 0, 'WITHSCORES')
redis.call('ZRANGEBYSCORE', W, '-inf', NOW, 'LIMIT', 0, 1)
redis.call('ZRANK', Q, ID)
redis.call('ZSCORE', X, ID)
-- Without data these change nothing.
redis.call('DEL', L)
redis.call('HDEL', F, 'id')
redis.call('PEXPIRE', L, 1000)
redis.call('ZREM', Q, ID)
redis.call('ZREMRANGEBYSCORE', X, '-inf', NOW)
local made = {
  redis.pcall('SET', L, ID, 'PX', 1000),
  redis.pcall('HSET', F, 'id', ID),
  redis.pcall('ZADD', Q, NOW, ID),
}
redis.call('DEL', L, Q, F)
for _, said in ipairs(made) do
  if type(said) == 'table' and said.err then return said end
end
return 1
