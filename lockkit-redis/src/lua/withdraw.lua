-- ARGV: entry, '1' if an attempt of this request may still arrive, or ''.
local E = ARGV[1]
local is_ours, are_ours = ours({ string = { L, F }, zset = { Q, X, S, M } })
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
