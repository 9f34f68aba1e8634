-- Shared by every script. An entry is `id.client.ttl.label`: 32 and 16 digits, then milliseconds. The lock's
-- value is an entry and `.token`, 16 digits: the server's microseconds at the grant. A shared request's client begins
-- with `s` in place of its first digit: to a client of before shared locks it is one that does not live.
--
-- A group of shared grants has the value `shared.token`, the token of its first. Its members are entries: in S by
-- the server's milliseconds at which each expires, in M by their tokens. The lock, S and M expire with the last one.
local S, M = '{' .. L .. '}:s', '{' .. L .. '}:m'
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

local function milliseconds()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The client of an entry, and whether the request is shared.
local function client_of(entry)
  local client = string.sub(entry, 34, 49)
  if string.sub(client, 1, 1) ~= 's' then return client, false end
  return '0' .. string.sub(client, 2), true
end

local function is_group(value)
  return value and string.sub(value, 1, 7) == 'shared.'
end

-- The token of a member; nil where it is none.
local function token_of(entry)
  local token = redis.call('ZSCORE', M, entry)
  return token and string.format('%.0f', token)
end

-- The lock lasts as long as the last of its members.
local function last_as_members(now)
  local left = redis.call('ZRANGE', S, -1, -1, 'WITHSCORES')[2] - now
  for _, place in ipairs({ L, S, M }) do redis.call('PEXPIRE', place, string.format('%.0f', left)) end
end

-- Takes a shared request into the group, and begins one where there is none.
local function join(entry, token, ttl)
  local now = milliseconds()
  if not is_group(redis.call('GET', L)) then
    -- What a foreign DEL has left of an earlier group.
    redis.call('DEL', S, M)
    redis.call('SET', L, 'shared.' .. token)
  end
  redis.call('ZADD', S, string.format('%.0f', now + ttl), entry)
  redis.call('ZADD', M, token, entry)
  last_as_members(now)
end

-- Removes the members that have expired; whether any is left.
local function purge(now)
  for _, entry in ipairs(redis.call('ZRANGE', S, '-inf', string.format('%.0f', now), 'BYSCORE')) do
    redis.call('ZREM', S, entry)
    redis.call('ZREM', M, entry)
  end
  return redis.call('ZCARD', S) > 0
end

-- Pushes the word of a grant to its client. Gives the grant's ttl: a short one for a client that does not listen, which
-- learns of it by its heartbeat, and nil for one that is dead.
local function push(client, word, age, ttl)
  -- Asked first: a replica repeats a push to those who listen there. A process that was killed does not
  -- listen. An ACL may deny both commands, and an error would leave the script half done.
  local is_deaf = redis.pcall('PUBSUB', 'NUMSUB', WAKE .. client)[2] == 0
  if is_deaf then
    if age > DEAF then return nil end
    return tonumber(ttl) > UNHEARD and UNHEARD or ttl
  end
  redis.pcall('PUBLISH', WAKE .. client, 'go ' .. word)
  return ttl
end

-- Grants to the first in the queue whose client lives, and where that is a shared request to those behind it up to
-- the first that is not; in a group that is `open`, to shared requests alone. The first may be `head`, taken out
-- already. Gives the first entry, the word for it, its token, and the token of `me`; nil where none is granted.
--
-- The word is pushed, but not to the entry `me`, nor of an exclusive grant to the client `me`.
local function grant_next(me, head, open)
  local dead, first, first_token, mine = {}, nil, nil, nil
  while true do
    head = head or (open and redis.call('ZRANGE', Q, 0, 0) or redis.call('ZPOPMIN', Q))[1]
    if not head then return first, nil, first_token, mine end
    local client, is_shared = client_of(head)
    local key = CLIENT .. client
    local age = not dead[client] and LIFE - redis.call('PTTL', key) or LIFE + 1
    local is_dead = age >= LIFE
    if open then
      if not is_dead and not is_shared then return first, nil, first_token, mine end
      redis.call('ZREM', Q, head)
    end
    if not is_dead then
      local token, ttl = issue(), string.match(head, '^%d+', 51)
      -- Its term counts from the heartbeat, which came so long ago by this clock.
      local word = string.sub(head, 1, 32) .. ' ' .. token .. ' ' .. redis.call('GET', key) .. ' ' .. age
      if head ~= me and (is_shared or client ~= me) then
        ttl = push(client, word, age, ttl)
        is_dead = not ttl
      end
      if is_dead then
        -- If it lives after all, its next heartbeat says that it was dead, and its requests ask again.
        redis.call('DEL', key)
      elseif is_shared then
        join(head, token, ttl)
        open, first, first_token = true, first or head, first_token or token
        if head == me then mine = token end
      else
        redis.call('SET', L, head .. '.' .. token, 'PX', ttl)
        return head, word, token, head == me and token
      end
    end
    if is_dead then dead[client] = true end
    head = nil
  end
end

-- The grant that is there ends: the next one is granted, or the name is free. Gives the word for a request of `me`.
local function hand_on(me, head)
  local next, word = grant_next(me, head)
  if not next then
    redis.call('DEL', L)
  elseif word and string.sub(next, 34, 49) == me then
    return word
  end
end

-- A member leaves its group: the grant ends with the last one.
local function leave(entry)
  local now = milliseconds()
  redis.call('ZREM', S, entry)
  redis.call('ZREM', M, entry)
  if purge(now) then
    last_as_members(now)
  else
    -- The group is over, and those that are granted next may begin another.
    redis.call('DEL', L)
    grant_next('')
  end
end

-- The client of a request that waits lives on, and its reading is noted. Gives whether the request has a place, and 1 if
-- the client had been alive, or 0.
local function lives(entry, reading)
  local key = CLIENT .. client_of(entry)
  if redis.call('ZSCORE', Q, entry) then
    -- A server without memory refuses nothing after this write: a waiter keeps its place.
    redis.call('PEXPIRE', Q, LASTS)
    local was_alive = redis.call('PEXPIRE', key, LIFE)
    redis.call('SET', key, reading, 'PX', LIFE)
    return true, was_alive
  end
  return false, redis.call('SET', key, reading, 'PX', LIFE, 'GET') and 1 or 0
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
  local now = milliseconds()
  redis.call('ZREMRANGEBYSCORE', X, '-inf', now)
  redis.call('ZADD', X, now + TOMB, id)
  redis.call('PEXPIRE', X, TOMB)
end
