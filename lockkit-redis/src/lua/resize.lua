-- ARGV: the new limit of a semaphore. Answers the limit before.
open()
local before = LIMIT
LIMIT = tonumber(ARGV[1])
save()
admit('')
return before
