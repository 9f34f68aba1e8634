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
