-- No request waits, and no attempt of this one may still arrive: these three commands.
local head
local value = redis.call('GET', L)
if value == ARGV[1] and ARGV[2] == '' then
  head = redis.call('ZPOPMIN', Q)[1]
  if not head then
    redis.call('DEL', L)
    return 1
  end
end
