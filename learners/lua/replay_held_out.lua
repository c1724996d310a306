-- Read held-out rows evenly over their classes, and of each class evenly from its oldest row to its
-- newest: always the same ones of the same memory.
--
-- ARGV: how many at most. Answers the rows in order of arrival.
local classes, held = classes_of('h'), 0
for _, class in ipairs(classes) do
  held = held + class.size
end
local left = math.min(tonumber(ARGV[1]), held)
while left > 0 do -- one more row of every class that has one
  for _, class in ipairs(classes) do
    local taken = class.taken or 0
    if left > 0 and taken < class.size then
      class.taken, left = taken + 1, left - 1
    end
  end
end

-- Rows that came before arrivals of this part were kept are the oldest.
local rank = {}
for n, id in ipairs(redis.call('ZRANGE', base .. 'order:h', 0, -1)) do
  rank[id] = n
end
local function is_older(a, b)
  local rank_a, rank_b = rank[a] or 0, rank[b] or 0
  return rank_a < rank_b or (rank_a == rank_b and a < b)
end

local ids = {}
for _, class in ipairs(classes) do
  if class.taken then
    local all = redis.call('HVALS', base .. 'slots:h:' .. class.name)
    table.sort(all, is_older)
    for n = 1, class.taken do -- of one row alone, the newest
      local at = class.size
      if class.taken > 1 then
        at = 1 + math.floor((n - 1) * (class.size - 1) / (class.taken - 1))
      end
      ids[#ids + 1] = all[at]
    end
  end
end
table.sort(ids, is_older)
return rows_of(ids)
