-- Count interactions that can never be used, each record once.
--
-- ARGV: remember_ms, then task, position and digest of each. Answers how many were new.
local new = 0
for n = 2, #ARGV, 3 do
  local task = ARGV[n]
  if redis.call('SET', base .. 'm:' .. ARGV[n + 1] .. '#' .. ARGV[n + 2], 'dead',
      'PX', tonumber(ARGV[1]), 'NX') then
    count(task, 'interactions', 1)
    count(task, 'dead', 1)
    new = new + 1
  end
end
write_counts()
return new
