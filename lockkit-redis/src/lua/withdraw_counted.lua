-- ARGV: entry, '1' if an attempt of this request may still arrive, or ''.
local E = ARGV[1]
places()
local is_ours, are_ours = ours({ string = { L }, zset = { Q, X, S, M, P } })
if is_ours[X] and ARGV[2] ~= '' then bury(string.sub(E, 1, 32)) end
if is_ours[Q] then redis.call('ZREM', Q, E) end
if are_ours and pcall(open) then
  if permit_of(E) then vacate(E, '') else hand_out('') end
  return 1
end
for _, place in ipairs({ S, M, P }) do
  if is_ours[place] then redis.call('ZREM', place, E) end
end
return 1
