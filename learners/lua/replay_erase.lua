-- Erase every row of a user, in order of id, so that equal memories stay equal. ARGV: user.
-- Answers {how many there were}.
local mine = {}
for _, name in ipairs(names_in(redis.call('HGET', base .. 'users', bucket_of(ARGV[1])) or '')) do
  local row = read_row(stored(name))
  if row.user == ARGV[1] then
    mine[#mine + 1] = {id = row.id, name = name}
  end
end
table.sort(mine, function(a, b) return a.id < b.id end)
for _, one in ipairs(mine) do
  remove(one.name, read_row(stored(one.name))) -- read again: the one before may have moved it
end
if #mine > 0 then
  save()
end
return {#mine}
