-- KEYS[1]: the fence, a hash. ARGV[1]: exclusive, shared, or the field of a slot. ARGV[2]: the token. ARGV[3]: raise or check.
-- Tokens are decimal texts without zeros in front: Lua's numbers lose the last digits of large ones.
local function newer(token, other)
    if #token ~= #other then return #token > #other end
    return token > other
end

local function seen(field)
    local token = redis.call('HGET', KEYS[1], field) or '0'
    if not string.match(token, '^%d+$') then
        return error('the field ' .. field .. ' of the fence is no token')
    end
    return token
end

-- The newest token where this one is stale.
local function stale(kind, token)
    if kind == 'shared' then
        local exclusive = seen('exclusive')
        return not newer(token, exclusive) and exclusive
    end
    local own, shared = seen(kind), '0'
    if kind == 'exclusive' then shared = seen('shared') end
    if newer(own, token) or not newer(token, shared) then
        return newer(own, shared) and own or shared
    end
    return false
end

local newest = stale(ARGV[1], ARGV[2])
if newest then return {0, newest} end
if ARGV[3] == 'raise' and newer(ARGV[2], seen(ARGV[1])) then
    redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end

-- The caller's script sees its own keys and arguments.
table.remove(KEYS, 1)
for _ = 1, 3 do table.remove(ARGV, 1) end
local function work()
