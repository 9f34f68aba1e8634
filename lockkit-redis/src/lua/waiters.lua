-- How many requests wait, without those whose clients are dead.
local function live_waiters()
  local waiters = redis.call('ZCARD', Q)
  if waiters == 0 or waiters > 1000 then return waiters end
  local alive, live = {}, 0
  for _, entry in ipairs(redis.call('ZRANGE', Q, 0, -1)) do
    local client = client_of(entry)
    if alive[client] == nil then alive[client] = redis.call('EXISTS', CLIENT .. client) end
    live = live + alive[client]
  end
  return live
end

