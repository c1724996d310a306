-- Note the last loss of rows of the train part; those that are not there are passed over.
--
-- ARGV: names in one string, MessagePack array of levels. Answers {how many were there}.
local there = 0
for n, level in ipairs(cmsgpack.unpack(ARGV[2])) do
  local name = string.sub(ARGV[1], NAME * n - NAME + 1, NAME * n)
  local value = stored(name)
  local slot, before, level_slot, arrival, number = 0, OF_NO_LEVEL, 0, 0, nil
  if value then
    slot, before, level_slot, arrival, number = struct.unpack(HEAD, value)
  end
  if before ~= OF_NO_LEVEL then
    there = there + 1
    if before ~= level then
      local from, to = level_name(before), level_name(level)
      leave_list(levels_now(), from, 'level:' .. from, level_slot, 6)
      level_slot = join_list(levels_now(), to, 'level:' .. to, name)
      redis.call('HSET', base .. 'rows', name,
        struct.pack(HEAD, slot, level, level_slot, arrival, number) .. string.sub(value, HEAD_BYTES + 1))
    end
  end
end
if there > 0 then
  save()
end
return {there}
