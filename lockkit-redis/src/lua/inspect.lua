-- ARGV: none. Answers {holder's value, ms until its expiry, waiters, its token, label, age in us}.
purge()
local holder = redis.call('GET', L)
local waiters = redis.call('ZCARD', Q)
-- Reserved for a waiter is not yet held.
if not holder or redis.call('ZSCORE', Q, holder) then return { '', '-2', waiters } end
local ms = tostring(redis.call('PTTL', L))
if not granted_to(holder) then return { holder, ms, waiters } end
local f = redis.call('HMGET', F, 'token', 'label', 'since')
return { holder, ms, waiters, f[1], f[2], string.format('%.0f', NOW - tonumber(f[3])) }
