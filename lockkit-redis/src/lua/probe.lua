-- ARGV: client. Run on a name of the client's own, which does not exist: each command of the other scripts once, so
-- that one which the server does not know, or the user may not run, is told. Changes nothing at any instant.
--
-- First what takes memory: after the first command that could write, a server without memory lets the rest
-- of a script pass.
local said = {
  redis.pcall('SET', L, '', 'XX', 'PX', 1000),
  redis.pcall('SET', F, '', 'XX', 'KEEPTTL', 'GET'),
  redis.pcall('SET', CLIENT .. ARGV[1] .. ':probe', '', 'XX', 'PX', 1000, 'GET'),
  redis.pcall('ZADD', Q, 'XX', 1, ''),
}
redis.call('TIME')
redis.call('PUBSUB', 'NUMSUB', WAKE .. ARGV[1])
redis.call('EXISTS', L, Q, X)
redis.call('GET', L)
redis.call('MGET', L)
redis.call('TYPE', L)
redis.call('PTTL', L)
redis.call('HMGET', '{' .. L .. '}:f', 'id', 'token')
redis.call('ZCARD', Q)
redis.call('ZRANGE', Q, 0, 0)
redis.call('ZRANGE', S, '-inf', 0, 'BYSCORE')
redis.call('ZSCORE', X, '')
redis.call('DEL', L)
redis.call('PEXPIRE', L, 1000)
redis.call('ZPOPMIN', Q)
redis.call('ZREM', Q, '')
redis.call('ZREMRANGEBYSCORE', X, '-inf', 0)
for i = 1, #said do
  local answer = said[i]
  if type(answer) == 'table' and answer.err then return answer end
end
return 1
