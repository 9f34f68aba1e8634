-- ARGV: none. Answers {the lock's value or '', ms until it expires or -2, waiters, the server's microseconds}, and
-- for a holder of a client before layout 2 its token, label and time; for a group 'shared', and of each member the
-- value that it would have alone, and ms until it expires. A foreign holder's value may be empty.
local value = redis.call('GET', L)
local waiters = live_waiters()
local time = redis.call('TIME')
local said = { value or '', value and redis.call('PTTL', L) or -2, waiters, time[1] .. string.sub('00000' .. time[2], -6) }
if is_group(value) then
  local now = milliseconds()
  said[5] = 'shared'
  for _, entry in ipairs(redis.call('ZRANGE', M, 0, -1)) do
    local left = (redis.call('ZSCORE', S, entry) or 0) - now
    if left > 0 then said[#said + 1], said[#said + 2] = entry .. '.' .. token_of(entry), left end
  end
end
-- Clients of before queue apart, and keep their fence beside it.
local queue = redis.pcall('ZCARD', '{' .. L .. '}:q')
if type(queue) == 'number' then said[3] = said[3] + queue end
if value and #value == 49 then
  local fence = redis.pcall('HMGET', '{' .. L .. '}:f', 'id', 'token', 'label', 'since')
  if not fence.err and fence[1] == value then
    said[5], said[6], said[7] = fence[2], fence[3], fence[4]
  elseif not fence.err and fence[2] then
    -- Reserved for a waiter, and not yet held.
    said[1], said[2] = '', -2
  end
end
return said
