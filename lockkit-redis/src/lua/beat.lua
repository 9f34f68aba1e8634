-- KEYS: the locks that requests of this client wait for. ARGV: client, its clock reading, ms until its next beat.
-- Answers 1 if the client had been alive, then for each lock that it should know of: its number, ms until it
-- expires or -1, and its value if this client holds it. -2: free, and no request waits for it.
local ME, SOON = ARGV[1], tonumber(ARGV[3])
-- First a write that needs no memory: the server refuses nothing after it.
local said = { redis.call('PEXPIRE', CLIENT .. ME, LIFE) }
redis.call('SET', CLIENT .. ME, ARGV[2], 'PX', LIFE)
for n, value in ipairs(redis.call('MGET', unpack(KEYS))) do
  L = KEYS[n]
  if not value then
    -- Data of another type reads as nothing there. The requests learn of it by asking.
    Q, X, F = '{' .. L .. '}:n', '{' .. L .. '}:d', '{' .. L .. '}:t'
    local is_done, head
    if redis.call('EXISTS', L) == 0 then is_done, head = pcall(grant_next, '') end
    if not is_done or not head then
      said[#said + 1], said[#said + 2], said[#said + 3] = n, -2, ''
    end
  else
    local left = redis.call('PTTL', L)
    local is_mine = string.sub(value, 34, 49) == ME
    if left < 0 or left > SOON then left = -1 end
    if is_mine or left >= 0 then
      said[#said + 1], said[#said + 2], said[#said + 3] = n, left, is_mine and value or ''
    end
  end
end
return said
