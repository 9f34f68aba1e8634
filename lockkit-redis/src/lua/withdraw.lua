-- ARGV: entry, '1' if an attempt of this request may still arrive, or ''.
-- Data of another type in a place of ours lets no script grant, queue or hand on: all that is left to do is to
-- remove this request from the other places. Refused, it would be repeated for a whole ttl.
local E = ARGV[1]
local KINDS, is_ours, are_ours = { string = { L, F }, zset = { Q, X, S, M } }, {}, true
for kind, places in pairs(KINDS) do
  for _, place in ipairs(places) do
    local found = redis.call('TYPE', place).ok
    is_ours[place] = found == kind or found == 'none'
    are_ours = are_ours and is_ours[place]
  end
end
if is_ours[X] and ARGV[2] ~= '' then bury(string.sub(E, 1, 32)) end
local value = is_ours[L] and redis.call('GET', L)
local is_held = value and string.sub(value, 1, 49) == string.sub(E, 1, 49)
if is_ours[Q] then redis.call('ZREM', Q, E) end
if not are_ours then
  if is_held then redis.call('DEL', L) end
  for _, place in ipairs({ S, M }) do
    if is_ours[place] then redis.call('ZREM', place, E) end
  end
elseif is_held then
  hand_on('')
elseif is_group(value) then
  -- Shared requests may have stood behind this one.
  if token_of(E) then leave(E) else grant_next('', nil, true) end
elseif not value then
  grant_next('')
end
return 1
