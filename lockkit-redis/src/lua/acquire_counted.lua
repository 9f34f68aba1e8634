-- ARGV: entry, ttl, the client's clock reading or '' for one that only tries, the limit that the caller wishes for, '1'
-- if it takes no other, or ''. Replay and confirmation are this same script. Answers {'granted', token, slot, limit},
-- or {'held', the first grant's entry and token, ms until a grant expires, 1 if the client had been alive, limit}, or
-- {'other', limit} for a limit that the caller does not take, or {'withdrawn'}.
local E, TTL, READING, WISHED = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
open()
-- No request waits, and none was withdrawn of late.
local is_quiet = redis.call('EXISTS', Q, X) == 0
if not is_quiet and redis.call('ZSCORE', X, string.sub(E, 1, 32)) then return { 'withdrawn' } end
local token, slot = permit_of(E)
if token then
  redis.call('ZREM', X, '') -- needs no memory, as the extension of an exclusive grant
  extend(E, TTL)
  return { 'granted', token, slot, LIMIT }
end
local is_noted = LIMIT > 0
if not is_noted then
  LIMIT = WISHED
elseif LIMIT ~= WISHED and ARGV[5] ~= '' then
  return unless_replica({ 'other', LIMIT })
end
local function take()
  token, slot = issue_permit(TTL), free_slot()
  seat(E, token, slot, TTL)
end
if is_quiet and LIVE < LIMIT then
  take()
  return { 'granted', token, slot, LIMIT }
end
local waits, is_placed, was_alive = READING ~= '', false, 1
if waits then is_placed, was_alive = lives(E, READING) end
local _
_, token, slot = admit(E)
if not token and LIVE < LIMIT then take() end
if token then
  -- This answer does not tell that the client had been dead: its next beat does.
  if was_alive == 0 then redis.call('DEL', CLIENT .. client_of(E)) end
  return { 'granted', token, slot, LIMIT }
end
if not is_noted then save() end
-- It tells of the grant that was made first.
local first = redis.call('ZRANGE', M, 0, 0)[1]
local held = { 'held', first .. '.' .. token_of(first), first_end(), was_alive, LIMIT }
if not waits then return unless_replica(held) end
if not is_placed then
  redis.call('ZADD', Q, issue_permit(0), E)
  redis.call('PEXPIRE', Q, LASTS)
end
return held
