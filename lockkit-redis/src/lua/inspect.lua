-- ARGV: none. Answers {'1' if it is held, ms until the holder's expiry, waiters, its token, label, age
-- in us}. A foreign holder's value may be empty.
purge()
local holder = redis.call('GET', L)
local waiters = redis.call('ZCARD', Q)
-- Reserved for a waiter is not yet held.
if not holder or redis.call('ZSCORE', Q, holder) then return { '0', '-2', waiters } end
local ms = tostring(redis.call('PTTL', L))
local f = redis.call('HMGET', F, 'id', 'token', 'label', 'since')
if f[1] ~= holder then return { '1', ms, waiters } end
return { '1', ms, waiters, f[2], f[3], string.format('%.0f', NOW - tonumber(f[4])) }
