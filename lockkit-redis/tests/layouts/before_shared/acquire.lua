-- ARGV: entry, ttl, the client's clock reading or '' for one that only tries. Replay and confirmation are this
-- same script. Answers the token, or {'held', the lock's value, ms until it expires, 1 if the client had been
-- alive}, or {'withdrawn'}.
local E, TTL, READING = ARGV[1], ARGV[2], ARGV[3]
if redis.call('ZSCORE', X, string.sub(E, 1, 32)) then return { 'withdrawn' } end
local value = redis.call('GET', L)
if value and string.sub(value, 1, -18) == E then
  redis.call('PEXPIRE', L, TTL)
  return string.sub(value, -16)
end
local waits, was_alive, is_placed = READING ~= '', 1, false
local key = CLIENT .. string.sub(E, 34, 49)
if waits then
  is_placed = redis.call('ZSCORE', Q, E)
  if is_placed then
    -- A server without memory refuses nothing after this write: a waiter keeps its place.
    redis.call('PEXPIRE', Q, LASTS)
    was_alive = redis.call('PEXPIRE', key, LIFE)
    redis.call('SET', key, READING, 'PX', LIFE)
  else
    was_alive = redis.call('SET', key, READING, 'PX', LIFE, 'GET') and 1 or 0
  end
end
if not value then
  local head, _, token = grant_next(E)
  if not head then
    head, token = E, issue()
    redis.call('SET', L, E .. '.' .. token, 'PX', TTL)
  end
  if head == E then
    -- This answer does not tell that the client had been dead: its next beat does.
    if was_alive == 0 then redis.call('DEL', key) end
    return token
  end
  value = head .. '.' .. token
end
if not waits then return unless_replica({ 'held', value, -1, 1 }) end
if not is_placed then
  redis.call('ZADD', Q, issue(), E)
  redis.call('PEXPIRE', Q, LASTS)
end
return { 'held', value, redis.call('PTTL', L), was_alive }
