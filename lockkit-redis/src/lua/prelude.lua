-- Shared by every script. Keys: the lock, its queue, its waiters' lives, its tombstones, its fence.
local L, Q, W, X, F = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local ID = ARGV[1]
-- Milliseconds: a reservation, a waiter's life without a heartbeat, a queue (the longest life and a
-- second more), a tombstone, a fence unused.
local RESERVE, ALIVE, LASTS, TOMB, FENCE = 500, tonumber(ARGV[2]), 4000, 120000, 86400000
-- How many tokens after its own, and how many waiters, a holder's provider may hand the name on by.
local AHEAD = 16

-- TIME moves on inside a script: read once. Microseconds stay exact in a double until 2255.
local time = redis.call('TIME')
local NOW = time[1] * 1000000 + time[2]

-- One channel per provider: its name follows the dot in every id. PUBLISH may be denied by an ACL,
-- and an error here would leave the script half done.
local function push(word, id, ms)
  redis.pcall('PUBLISH', 'lockkit:wake:' .. string.sub(id, 34), word .. ' ' .. id .. ' ' .. ms)
end

local function waiter(rank) return redis.call('ZRANGE', Q, rank, rank)[1] end

-- What an answer is where nothing was written: a replica may not know yet what its primary has granted.
-- It refuses this write, which removes nothing that counts; any other refusal is of no interest here.
local function unless_replica(answer)
  local said = redis.pcall('ZREMRANGEBYSCORE', X, '-inf', NOW)
  local refused = type(said) == 'table' and said.err and string.find(said.err, 'READONLY', 1, true)
  return refused and redis.error_reply('READONLY this server is a replica') or answer
end

local function leave(...)
  redis.call('ZREM', Q, ...)
  redis.call('ZREM', W, ...)
end

local function purge()
  repeat
    local dead = redis.call('ZRANGEBYSCORE', W, '-inf', NOW, 'LIMIT', 0, 1000)
    if dead[1] then leave(unpack(dead)) end
  until #dead < 1000
end

local function bury(id)
  redis.call('ZREMRANGEBYSCORE', X, '-inf', NOW)
  redis.call('ZADD', X, NOW + TOMB * 1000, id)
  redis.call('PEXPIRE', X, TOMB + 1000)
end

local function is_buried(id)
  local buried = redis.call('ZSCORE', X, id)
  return buried and tonumber(buried) > NOW
end

-- The fence: the last token, and whose grant it is. A name is only reserved while they differ.
local function granted(id, token, ttl, label)
  redis.call('SET', L, id, 'PX', ttl)
  local since = string.format('%.0f', NOW)
  redis.call('HSET', F, 'token', string.format('%.0f', token), 'id', id, 'label', label, 'since', since)
  redis.call('PEXPIRE', F, FENCE + ttl)
end

-- Reserves the free name for the head of the queue, who confirms by asking again. Its deadline can
-- then count from a send of its own; a push has none. Unanswered, both end at the same instant.
local function hand_over()
  purge()
  local head = waiter(0)
  if not head then return end
  -- The head may be the last holder, queued again: what it was granted has ended.
  redis.call('HDEL', F, 'id')
  redis.call('SET', L, head, 'PX', RESERVE)
  redis.call('ZADD', W, NOW + RESERVE * 1000, head)
  push('go', head, RESERVE)
  local next = waiter(1)
  if next then push('arm', next, RESERVE) end
end
