-- The grants that the server knows of, and those handed on without it, have ended. ARGV: the id it
-- knows to hold, life of a waiter, the newest token given out; the id that holds by now or '', its
-- ttl, its label; then each id whose grant has ended, with '1' if an attempt of it may still arrive.
-- Answers 0 if it was not held any more, 1 if it is free, or the first of the queue with their
-- tickets.
local TOKEN, NEXT, TTL, LABEL = tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5]), ARGV[6]
local holder = redis.call('GET', L)
local f = redis.call('HMGET', F, 'id', 'token', 'released')
local ended, is_ended = {}, false
for i = 7, #ARGV, 2 do
  ended[#ended + 1] = ARGV[i]
  is_ended = is_ended or holder == ARGV[i]
  if ARGV[i + 1] == '1' then bury(ARGV[i]) end
end
-- A greater token is a later grant: an attempt that arrived after the end of the ones named here.
local held = (is_ended or holder == NEXT) and holder == f[1] and tonumber(f[2]) <= TOKEN
-- Served without the server's knowing, or by such an attempt, they may still be in the queue.
if ended[2] or not held then leave(unpack(ended)) end

-- Delivered late, it may name one that has been withdrawn since: then nobody holds by now.
if held and NEXT ~= '' and not is_buried(NEXT) then
  -- First what a server without memory may still do: from the first write on it refuses nothing.
  leave(NEXT)
  granted(NEXT, TOKEN, TTL, LABEL)
  purge()
  local line = redis.call('ZRANGE', Q, 0, AHEAD - 1, 'WITHSCORES')
  local head = line[1]
  -- The new head watches the holder's expiry from its next heartbeat on, or from now.
  if head and TTL <= 1000 and string.sub(head, 34) ~= string.sub(NEXT, 34) then push('arm', head, TTL) end
  return line
end
if held or is_ended then
  redis.call('DEL', L)
  if held then redis.call('HSET', F, 'released', ID) end
  hand_over()
end
-- A repeated release is told what the first one was.
return (held or f[3] == ID) and 1 or 0
