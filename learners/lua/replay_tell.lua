-- Note the last loss of rows of the train part; ids that are not there are passed over.
--
-- ARGV: MessagePack array of {id, level}. Answers {how many were there}.
local there = 0
for _, told in ipairs(cmsgpack.unpack(ARGV[1])) do
  local id, level = unpack(told)
  local at = place(id)
  if at and at[1] == 't' then
    there = there + 1
    if at[LEVEL] ~= level then
      leave_slots('levels', at[LEVEL], 'level:', at[LEVEL_SLOT], LEVEL_SLOT)
      at[LEVEL], at[LEVEL_SLOT] = level, join_slots('levels', level, 'level:', id)
      put_place(id, at)
    end
  end
end
return {there}
