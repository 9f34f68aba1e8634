-- ARGV: the entry and its token as they were granted, ttl. 1 if it was extended.
local E, TOKEN = string.sub(ARGV[1], 1, -18), string.sub(ARGV[1], -16)
-- First a write that needs no memory: the server refuses nothing after it.
places()
redis.call('ZREM', X, '')
open()
if permit_of(E) ~= TOKEN then return 0 end
extend(E, ARGV[2])
if LIMIT > 0 and NOW + ARGV[2] > USED then
  USED = NOW + ARGV[2]
  save()
end
return 1
