-- Free, no request waits, and none was withdrawn of late: these four commands.
if redis.call('EXISTS', L, Q, X) == 0 then
  local time = redis.call('TIME')
  local token = time[1] .. string.sub('00000' .. time[2], -6)
  local last = redis.call('SET', F, token, 'KEEPTTL', 'GET')
  if not last then
    redis.call('PEXPIRE', F, 172800000)
  elseif last >= token then
    token = string.format('%.0f', tonumber(last) + 1)
    redis.call('SET', F, token, 'KEEPTTL')
  end
  redis.call('SET', L, ARGV[1] .. '.' .. token, 'PX', ARGV[2])
  return token
end
