-- KEYS: the locks that requests of this client wait for, then the semaphores. ARGV: client, its clock reading, ms until
-- its next beat, how many of the keys are locks.
-- Answers 1 if the client had been alive, then for each one that it should know of: its number, ms until it
-- expires or -1, and its value if this client holds it. -2: free, and no request waits for it.
local ME, SOON, LOCKS = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
-- First a write that needs no memory: the server refuses nothing after it.
local said = { redis.call('PEXPIRE', CLIENT .. ME, LIFE) }
redis.call('SET', CLIENT .. ME, ARGV[2], 'PX', LIFE)
local function tell(n, left, value) said[#said + 1], said[#said + 2], said[#said + 3] = n, left, value end
local function tell_all(n, left, mine)
  if left < 0 or left > SOON then left = -1 end
  if left >= 0 and #mine == 0 then mine = { '' } end
  for _, value in ipairs(mine) do tell(n, left, value) end
end
-- The grants of late in S and M that this client holds: those of before were told.
local function of_late(mine)
  local since = string.format('%.0f', (milliseconds() - LIFE) * 1000)
  for _, entry in ipairs(redis.call('ZRANGE', M, since, '+inf', 'BYSCORE')) do
    if client_of(entry) == ME then mine[#mine + 1] = entry .. '.' .. token_of(entry) end
  end
  return mine
end
for n, value in ipairs(redis.call('MGET', unpack(KEYS))) do
  L = KEYS[n]
  Q, X, F = '{' .. L .. '}:n', '{' .. L .. '}:d', '{' .. L .. '}:t'
  S, M = '{' .. L .. '}:s', '{' .. L .. '}:m'
  -- Data of another type reads as nothing there. The requests learn of it by asking.
  if n > LOCKS then
    local is_done = pcall(open) and pcall(admit, '')
    if not is_done or LIVE < LIMIT or LIMIT == 0 then tell(n, -2, '') end
    if is_done then tell_all(n, first_end() or -1, of_late({})) end
  elseif not value then
    local is_done, head
    if redis.call('EXISTS', L) == 0 then is_done, head = pcall(grant_next, '') end
    if not is_done or not head then tell(n, -2, '') end
  else
    local left = redis.call('PTTL', L)
    local mine = string.sub(value, 34, 49) == ME and { value } or {}
    if is_group(value) then
      -- Dead requests may stand before shared ones.
      pcall(grant_next, '', nil, true)
      mine = of_late(mine)
    end
    tell_all(n, left, mine)
  end
end
return said
