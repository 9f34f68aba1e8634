-- Data of another type in a place of ours lets no script grant, queue or hand on: all that is left to do is to
-- remove a request that is withdrawn from the other places. Refused, it would be repeated for a whole ttl.
-- Gives of each place whether what lies there is of its type, and whether all are.
local function ours(kinds)
  local is_ours, are_ours = {}, true
  for kind, places in pairs(kinds) do
    for _, place in ipairs(places) do
      local found = redis.call('TYPE', place).ok
      is_ours[place] = found == kind or found == 'none'
      are_ours = are_ours and is_ours[place]
    end
  end
  return is_ours, are_ours
end

