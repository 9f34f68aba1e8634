-- ARGV: id, life of a waiter, '1' if an attempt of this id may still arrive. 1 if it was held.
if ARGV[3] == '1' then bury() end
if redis.call('GET', L) ~= ID or not granted_to(ID) then
  -- A repeated release is told what the first one was.
  return redis.call('HGET', F, 'released') == ID and 1 or 0
end
redis.call('DEL', L)
redis.call('HSET', F, 'released', ID)
hand_over()
return 1
