-- ARGV: none. Answers {limit, waiters, the server's microseconds}, and of each grant its entry and token, ms until it
-- expires, and its slot.
look()
local said = { LIMIT, live_waiters(), MICROSECONDS }
for _, entry in ipairs(LIVE > 0 and redis.call('ZRANGE', M, 0, -1) or {}) do
  local left = (redis.call('ZSCORE', S, entry) or 0) - NOW
  local token, slot = permit_of(entry)
  if left > 0 then said[#said + 1], said[#said + 2], said[#said + 3] = entry .. '.' .. token, left, slot end
end
return said
