-- Read held-out rows evenly over their classes, always the same ones of the same memory.
--
-- ARGV: how many at most. Answers the rows.
local wanted, classes, ids = tonumber(ARGV[1]), classes_of('h'), {}
local slot, found = 0, true
while found and #ids < wanted do
  found = false
  for _, class in ipairs(classes) do
    if slot < class.size and #ids < wanted then
      ids[#ids + 1] = redis.call('HGET', base .. 'slots:h:' .. class.name, slot)
      found = true
    end
  end
  slot = slot + 1
end
return rows_of(ids)
