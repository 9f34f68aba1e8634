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
local client, is_shared = client_of(E)
local is_open = is_shared and is_group(value)
if is_open and not purge(milliseconds()) then
  redis.call('DEL', L)
  value, is_open = nil, false
end
local granted = is_open and token_of(E)
if granted then
  redis.call('ZREM', X, '') -- needs no memory, as the extension of an exclusive grant
  join(E, granted, TTL)
  return granted
end
local waits, is_placed, was_alive = READING ~= '', false, 1
if waits then is_placed, was_alive = lives(E, READING) end
if not value or is_open then
  local head, _, token, mine = grant_next(E, nil, is_open)
  if not mine and not head and not is_open then
    mine = issue()
    if is_shared then join(E, mine, TTL) else redis.call('SET', L, E .. '.' .. mine, 'PX', TTL) end
  elseif not mine and is_shared and redis.call('ZCARD', Q) == 0 and is_group(redis.call('GET', L)) then
    mine = issue()
    join(E, mine, TTL)
  end
  if mine then
    -- This answer does not tell that the client had been dead: its next beat does.
    if was_alive == 0 then redis.call('DEL', CLIENT .. client) end
    return mine
  end
  value = value or head .. '.' .. token
end
if is_group(value) then
  -- It tells of the member that was granted first.
  local entry = redis.call('ZRANGE', M, 0, 0)[1]
  if entry then value = entry .. '.' .. token_of(entry) end
end
if not waits then return unless_replica({ 'held', value, -1, 1 }) end
if not is_placed then
  redis.call('ZADD', Q, issue(), E)
  redis.call('PEXPIRE', Q, LASTS)
end
return { 'held', value, redis.call('PTTL', L), was_alive }
