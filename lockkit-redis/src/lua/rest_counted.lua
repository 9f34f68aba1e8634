-- ARGV: the entry and its token as they were granted, '1' if an attempt of the request may still arrive, or '', ms. The
-- grant stays for so long under an entry that no request has, with its token and its slot. Answers 0 if it was not held
-- any more, 1 if it was. Repeated, it never makes the grant stay longer.
local E, TOKEN, MS = string.sub(ARGV[1], 1, -18), string.sub(ARGV[1], -16), tonumber(ARGV[3])
local REST = string.sub(E, 1, 33) .. 'f' .. string.sub(E, 35)
-- First a write that needs no memory: the server refuses nothing after it.
places()
redis.call('ZREM', X, '')
if ARGV[2] ~= '' then bury(string.sub(E, 1, 32)) end
open()
local token, slot = permit_of(E)
if token == TOKEN then
  remove(E)
  LIVE = LIVE - 1
  seat(REST, TOKEN, slot, MS)
elseif permit_of(REST) ~= TOKEN then
  return 0
elseif redis.call('ZSCORE', S, REST) - NOW > MS then
  extend(REST, MS)
end
if LIMIT > 0 and NOW + MS > USED then
  USED = NOW + MS
  save()
end
return 1
