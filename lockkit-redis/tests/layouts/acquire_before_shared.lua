-- Recorded: the script of a client of before shared locks (commit 405a696 and before).
-- The keys of a lock: itself, its queue, its tombstones, its last token.
local L = KEYS[1]
local Q, X, F = '{' .. L .. '}:n', '{' .. L .. '}:d', '{' .. L .. '}:t'
-- Free, no request waits, and none was withdrawn of late: these four commands.
if redis.call('EXISTS', L, Q, X) == 0 then
  local time = redis.call('TIME')
  local token = time[1] .. string.sub('00000' .. time[2], -6)
  local last = redis.call('SET', F, token, 'KEEPTTL', 'GET')
  if not last then
    redis.call('PEXPIRE', F, 172800000)
  elseif last >= token then
    token = string.format('%.0f', tonumber(last) + 1)
    redis.call('SET', F, token, 'KEEPTTL')
  end
  redis.call('SET', L, ARGV[1] .. '.' .. token, 'PX', ARGV[2])
  return token
end
-- Shared by every script. An entry is `id.client.ttl.label`: 32 and 16 digits, then milliseconds. The lock's
-- value is an entry and `.token`, 16 digits: the server's microseconds at the grant.
--
-- Milliseconds: a client's life after its last heartbeat, and where it does not listen; a grant to a client that
-- does not; a queue after its last waiter, a tombstone, the last token after its first.
local LIFE, DEAF, UNHEARD, LASTS, TOMB, KEPT = 3000, 700, 500, 120000, 120000, 172800000
-- A client lives while this key does. Its value is what the client's clock showed: no other clock is compared
-- with it, it is only echoed.
local CLIENT, WAKE = '{lockkit}:client:', 'lockkit:wake:'

-- The next token, text throughout: greater than the last one, whatever the clock does.
local function issue()
  local time = redis.call('TIME')
  local token = time[1] .. string.sub('00000' .. time[2], -6)
  local last = redis.call('SET', F, token, 'KEEPTTL', 'GET')
  if not last then
    redis.call('PEXPIRE', F, KEPT)
  elseif last >= token then
    token = string.format('%.0f', tonumber(last) + 1)
    redis.call('SET', F, token, 'KEEPTTL')
  end
  return token
end

-- Grants to the first in the queue whose client lives: with its entry, the word for it and the token; nil where
-- none waits. The first may be `head`, taken out already. The word is pushed unless entry or client is `me`, or
-- the client does not listen: then the grant is short, and the client learns of it by its heartbeat.
local function grant_next(me, head)
  local dead = {}
  while true do
    head = head or redis.call('ZPOPMIN', Q)[1]
    if not head then return end
    local client = string.sub(head, 34, 49)
    local key = CLIENT .. client
    local age = not dead[client] and LIFE - redis.call('PTTL', key) or LIFE + 1
    if age < LIFE then
      local token, ttl = issue(), string.match(head, '^%d+', 51)
      -- Its term counts from the heartbeat, which came so long ago by this clock.
      local word = string.sub(head, 1, 32) .. ' ' .. token .. ' ' .. redis.call('GET', key) .. ' ' .. age
      local is_dead = false
      if client ~= me and head ~= me then
        -- Asked first: a replica repeats a push to those who listen there. A process that was killed does not
        -- listen. An ACL may deny both commands, and an error would leave the script half done.
        local is_deaf = redis.pcall('PUBSUB', 'NUMSUB', WAKE .. client)[2] == 0
        if is_deaf then
          is_dead = age > DEAF
          if tonumber(ttl) > UNHEARD then ttl = UNHEARD end
        else
          redis.pcall('PUBLISH', WAKE .. client, 'go ' .. word)
        end
      end
      if not is_dead then
        redis.call('SET', L, head .. '.' .. token, 'PX', ttl)
        return head, word, token
      end
      -- If it lives after all, its next heartbeat says that it was dead, and its requests ask again.
      redis.call('DEL', key)
    end
    head, dead[client] = nil, true
  end
end

-- The grant that is there ends: the next one is granted, or the name is free. Gives the word for a request of `me`.
local function hand_on(me, head)
  local next, word = grant_next(me, head)
  if not next then
    redis.call('DEL', L)
  elseif string.sub(next, 34, 49) == me then
    return word
  end
end

-- What an answer is where nothing was written: a replica may not know yet what its primary has granted.
-- It refuses this write, which removes nothing; any other refusal is of no interest here.
local function unless_replica(answer)
  local said = redis.pcall('ZREM', X, '')
  local refused = type(said) == 'table' and said.err and string.find(said.err, 'READONLY', 1, true)
  return refused and redis.error_reply('READONLY this server is a replica') or answer
end

-- A delivery that comes late finds the id, and is refused.
local function bury(id)
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  redis.call('ZREMRANGEBYSCORE', X, '-inf', now)
  redis.call('ZADD', X, now + TOMB, id)
  redis.call('PEXPIRE', X, TOMB)
end
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
