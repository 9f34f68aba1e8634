-- ARGV: id, life of a waiter, '1' if an attempt of this id may still arrive. 1 if it was held.
if ARGV[3] == '1' then bury() end
-- An attempt that arrived after the grant's end may have queued, and come to the head again.
leave(ID)
if redis.call('GET', L) ~= ID then
  -- A repeated release is told what the first one was.
  return redis.call('HGET', F, 'released') == ID and 1 or 0
end
local held = granted_to(ID)
redis.call('DEL', L)
if held then redis.call('HSET', F, 'released', ID) end
hand_over()
return held and 1 or 0
