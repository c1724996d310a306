-- Erase every row of a user. ARGV: user. Answers {how many there were}.
local ids = redis.call('SMEMBERS', base .. 'user:' .. ARGV[1])
for _, id in ipairs(ids) do
  remove(id, place(id))
end
return {#ids}
