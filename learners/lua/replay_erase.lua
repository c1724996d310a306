-- Erase every row of a user, in order, so that equal memories stay equal. ARGV: user.
-- Answers {how many there were}.
local ids = redis.call('SMEMBERS', base .. 'user:' .. ARGV[1])
table.sort(ids)
for _, id in ipairs(ids) do
  remove(id, place(id))
end
return {#ids}
