-- Run on a name of the client's own, which does not exist: each command of the other scripts once, so that
-- one which the server does not know, or the user may not run, is told. Changes nothing at any instant.
--
-- First what takes memory: after the first command that could write, a server without memory lets the rest
-- of a script pass. HSET has no form that keeps what is missing so; this number of words is refused last.
local said = {
  redis.pcall('SET', L, ID, 'XX', 'PX', 1000),
  redis.pcall('ZADD', Q, 'XX', NOW, ID),
  redis.pcall('HSET', F, 'id', ID, 'token'),
}
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
redis.call('DEL', L)
redis.call('HDEL', F, 'id')
redis.call('PEXPIRE', L, 1000)
redis.call('ZREM', Q, ID)
redis.call('ZREMRANGEBYSCORE', X, '-inf', NOW)
for i = 1, 3 do
  local answer = said[i]
  local err = type(answer) == 'table' and answer.err
  if err and not string.find(err, 'wrong number of arguments', 1, true) then return answer end
end
return 1
