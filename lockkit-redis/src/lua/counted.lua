-- A semaphore: its grants, of which each has a slot, and its queue. `L` is `{<prefix><name>}:p`, which no lock's key can
-- be, and has the value `permits.<limit>.<last token>.<used>`: used until that millisecond at most. A limit of 0 is
-- none. The grants are entries: in S by the server's milliseconds at which each expires, in M by their tokens, in P by
-- their slots. These expire with the last grant, L does not.
local P, LIMIT, LAST, USED, NOW, MICROSECONDS, LIVE

local function places()
  Q, X, S, M, P = L .. 'n', L .. 'd', L .. 's', L .. 'm', L .. 'o'
end

local function remove(entry)
  for _, place in ipairs({ S, M, P }) do redis.call('ZREM', place, entry) end
end

-- Reads what the semaphore is, with the grants that have expired.
local function look()
  places()
  local time = redis.call('TIME')
  NOW = time[1] * 1000 + math.floor(time[2] / 1000)
  MICROSECONDS = time[1] .. string.sub('00000' .. time[2], -6)
  local limit, last, used = '0', '', '0'
  local value = redis.call('GET', L)
  if value then limit, last, used = string.match(value, '^permits%.(%d+)%.(%d*)%.(%d+)$') end
  if not limit then error('WRONGTYPE this is no semaphore') end
  LIMIT, LAST, USED = tonumber(limit), last, tonumber(used)
  LIVE = redis.call('ZCARD', S)
end

-- Reads what the semaphore is, and removes the grants that have expired.
local function open()
  look()
  if LIVE == 0 then return end
  local over = redis.call('ZRANGE', S, '-inf', string.format('%.0f', NOW), 'BYSCORE')
  for _, entry in ipairs(over) do remove(entry) end
  LIVE = LIVE - #over
end

local function save()
  redis.call('SET', L, string.format('permits.%d.%s.%.0f', LIMIT, LAST, USED))
end

-- The next token, for a grant that ends by itself after `ttl`.
local function issue_permit(ttl)
  LAST = MICROSECONDS > LAST and MICROSECONDS or string.format('%.0f', tonumber(LAST) + 1)
  USED = math.max(USED, NOW + ttl)
  save()
  return LAST
end

-- The smallest number that no grant has.
local function free_slot()
  -- Those below `low` are in use, and the one at `high` in their order is greater than its place, or not there.
  local low, high = 0, LIVE
  while low < high do
    local middle = math.floor((low + high) / 2)
    local slot = redis.call('ZRANGE', P, middle, middle, 'WITHSCORES')[2]
    if tonumber(slot) == middle then low = middle + 1 else high = middle end
  end
  return low
end

-- The token and the slot of a grant; nil where it is none.
local function permit_of(entry)
  local token = LIVE > 0 and token_of(entry)
  if token then return token, redis.call('ZSCORE', P, entry) end
end

-- A grant lasts for `ttl` from now on.
local function extend(entry, ttl)
  redis.call('ZADD', S, string.format('%.0f', NOW + ttl), entry)
  local left = redis.call('ZRANGE', S, -1, -1, 'WITHSCORES')[2] - NOW
  for _, place in ipairs({ S, M, P }) do redis.call('PEXPIRE', place, string.format('%.0f', left)) end
end

local function seat(entry, token, slot, ttl)
  -- What a foreign DEL has left of earlier grants.
  if LIVE == 0 then redis.call('DEL', M, P) end
  redis.call('ZADD', M, token, entry)
  redis.call('ZADD', P, slot, entry)
  extend(entry, ttl)
  LIVE = LIVE + 1
end

-- Grants to the first in the queue whose client lives, while a permit is free. The word is pushed, but not to the entry
-- `me`, and once not to the client `me`. Gives that word, its token and its slot.
local function admit(me)
  local dead, said, token_said, slot_said = {}, nil, nil, nil
  while LIVE < LIMIT do
    local head = redis.call('ZPOPMIN', Q)[1]
    if not head then break end
    local client = client_of(head)
    local key = CLIENT .. client
    local age = not dead[client] and LIFE - redis.call('PTTL', key) or LIFE
    local ttl = age < LIFE and string.match(head, '^%d+', 51)
    if ttl then
      local token, slot = issue_permit(ttl), free_slot()
      -- Its term counts from the heartbeat, which came so long ago by this clock.
      local word = string.sub(head, 1, 32) .. ' ' .. token .. ' ' .. redis.call('GET', key) .. ' ' .. age .. ' ' .. slot
      if head == me or (client == me and not said) then
        said, token_said, slot_said = word, token, slot
      else
        ttl = push(client, word, age, ttl)
      end
      if ttl then
        seat(head, token, slot, ttl)
      else
        -- If it lives after all, its next heartbeat says that it was dead, and its requests ask again.
        redis.call('DEL', key)
      end
    end
    if not ttl then dead[client] = true end
  end
  return said, token_said, slot_said
end

-- Grants what is free by now. Gives the word for a request of the client `me`.
local function hand_out(me)
  local word = admit(me)
  if LIVE == 0 and LIMIT > 0 and USED > NOW then
    USED = NOW
    save()
  end
  return word
end

-- A grant ends. Gives the word for a request of the client `me`.
local function vacate(entry, me)
  remove(entry)
  LIVE = LIVE - 1
  return hand_out(me)
end

-- In how many milliseconds the first grant expires; nil where there is none.
local function first_end()
  local first = redis.call('ZRANGE', S, 0, 0, 'WITHSCORES')[2]
  return first and first - NOW
end
