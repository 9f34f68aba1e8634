-- KEYS: the locks that requests of this client wait for. ARGV: client, its clock reading, ms until its next beat.
-- Answers 1 if the client had been alive, then for each lock that it should know of: its number, ms until it
-- expires or -1, and its value if this client holds it. -2: free, and no request waits for it.
local ME, SOON = ARGV[1], tonumber(ARGV[3])
-- First a write that needs no memory: the server refuses nothing after it.
local said = { redis.call('PEXPIRE', CLIENT .. ME, LIFE) }
redis.call('SET', CLIENT .. ME, ARGV[2], 'PX', LIFE)
for n, value in ipairs(redis.call('MGET', unpack(KEYS))) do
  L = KEYS[n]
  Q, X, F = '{' .. L .. '}:n', '{' .. L .. '}:d', '{' .. L .. '}:t'
  S, M = '{' .. L .. '}:s', '{' .. L .. '}:m'
  if not value then
    -- Data of another type reads as nothing there. The requests learn of it by asking.
    local is_done, head
    if redis.call('EXISTS', L) == 0 then is_done, head = pcall(grant_next, '') end
    if not is_done or not head then
      said[#said + 1], said[#said + 2], said[#said + 3] = n, -2, ''
    end
  else
    local left = redis.call('PTTL', L)
    local mine = string.sub(value, 34, 49) == ME and { value } or {}
    if left < 0 or left > SOON then left = -1 end
    if is_group(value) then
      -- Dead requests may stand before shared ones. Then the grants of late: those of before were told.
      pcall(grant_next, '', nil, true)
      local since = string.format('%.0f', (milliseconds() - LIFE) * 1000)
      for _, entry in ipairs(redis.call('ZRANGE', M, since, '+inf', 'BYSCORE')) do
        if client_of(entry) == ME then mine[#mine + 1] = entry .. '.' .. token_of(entry) end
      end
    end
    if left >= 0 and #mine == 0 then mine = { '' } end
    for _, value in ipairs(mine) do
      said[#said + 1], said[#said + 2], said[#said + 3] = n, left, value
    end
  end
end
return said
