-- ARGV: id, life of a waiter, '1' if an attempt of this id may still arrive.
if ARGV[3] == '1' then bury(ID) end
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
