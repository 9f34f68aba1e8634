-- ARGV: id, life of a waiter, ttl, label, '1' to wait. Replay, confirmation and heartbeat are this
-- same script. Answers {'granted', token, the first of the queue with their tickets} or {'held', ms
-- until the holder's expiry, rank, holder's label, ticket, holder's token} or {'withdrawn'}.
local TTL, LABEL, WAITS = tonumber(ARGV[3]), ARGV[4], ARGV[5] == '1'
if is_buried(ID) then return { 'withdrawn' } end
purge()
local holder = redis.call('GET', L)
local f = redis.call('HMGET', F, 'id', 'token', 'label')

if not holder or holder == ID then
  local line = redis.call('ZRANGE', Q, 0, AHEAD, 'WITHSCORES')
  if holder and f[1] == ID then
    redis.call('PEXPIRE', L, TTL)
    return { 'granted', f[2], line }
  end
  if holder or not line[1] or line[1] == ID then
    local token = math.max(tonumber(f[2] or '0') + AHEAD + 1, NOW)
    -- First what a server without memory may still do: from the first write on it refuses nothing.
    if line[1] then leave(ID) end
    granted(ID, token, TTL, LABEL)
    for _ = 1, line[1] == ID and 2 or 0 do table.remove(line, 1) end
    return { 'granted', string.format('%.0f', token), line }
  end
end
local rank, ticket = redis.call('ZRANK', Q, ID), nil
if WAITS then
  if rank then
    ticket = redis.call('ZSCORE', Q, ID)
  else
    -- By time, so that whoever lost its place and queued again has another ticket.
    ticket = math.max(tonumber(redis.call('ZRANGE', Q, -1, -1, 'WITHSCORES')[2] or '0') + 1, NOW)
    redis.call('ZADD', Q, ticket, ID)
    rank = redis.call('ZRANK', Q, ID)
  end
  -- As above: a waiter that is in the queue keeps its place without memory too.
  redis.call('PEXPIRE', Q, LASTS)
  redis.call('ZADD', W, NOW + ALIVE * 1000, ID)
  redis.call('PEXPIRE', W, LASTS)
end
if not holder then
  hand_over()
  holder = redis.call('GET', L)
  f[1] = false
end
-- Only the head watches the holder's expiry.
local ms = rank == 0 and redis.call('PTTL', L) or -1
local is_known = holder and holder == f[1]
local held = { 'held', ms, rank or -1, is_known and f[3] or '', ticket or -1, is_known and f[2] or '' }
return WAITS and held or unless_replica(held)
