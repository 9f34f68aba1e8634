-- ARGV: id, life of a waiter, '1' if an attempt of this id may still arrive.
-- Data of another type in a place of ours lets no script grant, queue or hand over: all that is left to
-- do is to remove this request from the other places. Refused, it would be repeated for a whole ttl.
local KINDS, is_ours, are_ours = { 'string', 'zset', 'zset', 'zset', 'hash' }, {}, true
for n, kind in ipairs(KINDS) do
  local found = redis.call('TYPE', KEYS[n]).ok
  is_ours[n] = found == kind or found == 'none'
  are_ours = are_ours and is_ours[n]
end
if is_ours[4] and ARGV[3] == '1' then bury(ID) end
if not are_ours then
  if is_ours[2] then redis.call('ZREM', Q, ID) end
  if is_ours[3] then redis.call('ZREM', W, ID) end
  if is_ours[1] and redis.call('GET', L) == ID then redis.call('DEL', L) end
  return 1
end
local was_head = waiter(0) == ID
leave(ID)
local holder = redis.call('GET', L)
if holder == ID then
  redis.call('DEL', L)
  hand_over()
elseif not holder then
  hand_over()
elseif was_head then
  -- The new head watches the holder's expiry from now on.
  local next = waiter(0)
  if next then push('arm', next, redis.call('PTTL', L)) end
end
return 1
