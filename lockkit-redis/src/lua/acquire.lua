-- ARGV: id, life of a waiter, ttl, label, '1' to wait. Replay, confirmation and heartbeat are this
-- same script. Answers {word, token or ms until the holder's expiry, rank, holder's label}.
local TTL, LABEL, WAITS = tonumber(ARGV[3]), ARGV[4], ARGV[5] == '1'
local holder = redis.call('GET', L)
purge()
if redis.call('ZSCORE', X, ID) then return { 'withdrawn' } end

local function grant()
  local last = tonumber(redis.call('HGET', F, 'token') or '0')
  local token = string.format('%.0f', math.max(last + 1, NOW))
  redis.call('SET', L, ID, 'PX', TTL)
  redis.call('HSET', F, 'token', token, 'id', ID, 'label', LABEL, 'since', string.format('%.0f', NOW))
  redis.call('PEXPIRE', F, FENCE + TTL)
  leave(ID)
  return { 'granted', token }
end

if holder == ID then
  if not granted_to(ID) then return grant() end
  redis.call('PEXPIRE', L, TTL)
  return { 'granted', redis.call('HGET', F, 'token') }
end
local head = waiter(0)
if not holder and (not head or head == ID) then return grant() end
if WAITS then
  if not redis.call('ZSCORE', Q, ID) then
    local last = redis.call('ZRANGE', Q, -1, -1, 'WITHSCORES')[2]
    redis.call('ZADD', Q, tonumber(last or '0') + 1, ID)
  end
  redis.call('ZADD', W, NOW + ALIVE * 1000, ID)
  outlive(Q, ALIVE + 1000)
  outlive(W, ALIVE + 1000)
end
if not holder then hand_over() end
holder = redis.call('GET', L) or ''
local label = granted_to(holder) and redis.call('HGET', F, 'label') or ''
return { 'held', tostring(redis.call('PTTL', L)), tostring(redis.call('ZRANK', Q, ID) or -1), label }
