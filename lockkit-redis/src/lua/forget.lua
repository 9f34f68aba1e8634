-- ARGV: ms for which the semaphore must not have been used. 1 if its limit was forgotten. Its last token stays for as long
-- as that of a lock.
open()
if LIMIT == 0 or LIVE > 0 or redis.call('ZCARD', Q) > 0 or USED > NOW - ARGV[1] then return unless_replica(0) end
LIMIT = 0
save()
redis.call('PEXPIRE', L, KEPT)
return 1
