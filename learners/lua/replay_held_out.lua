-- Read held-out rows evenly over their classes, and of each class evenly from its oldest row to its
-- newest: always the same ones of the same memory.
--
-- ARGV: how many at most. Answers the rows in order of arrival, as `answer` gives them.
local classes, held = classes_of('h'), counts['rows:h']
local left = math.min(tonumber(ARGV[1]), held)
while left > 0 do -- one more row of every class that has one
  for _, class in ipairs(classes) do
    local taken = class.taken or 0
    if left > 0 and taken < class.size then
      class.taken, left = taken + 1, left - 1
    end
  end
end

local rank = {}
for _, page in ipairs(pages_of('h')) do
  local entries = redis.call('HGET', base .. 'order:h', page)
  for first = 1, #entries, ENTRY do
    rank[string.sub(entries, first + 1, first + NAME)] = PAGE * page + string.byte(entries, first)
  end
end
local function is_older(a, b)
  return rank[a] < rank[b]
end

local names = {}
for _, class in ipairs(classes) do
  if class.taken then
    local list = 'slots:h:' .. class.name
    local all = names_in(redis.call('GETRANGE', base .. list, 0, NAME * class.size - 1))
    table.sort(all, is_older)
    for n = 1, class.taken do -- of one row alone, the newest
      local at = class.size
      if class.taken > 1 then
        at = 1 + math.floor((n - 1) * (class.size - 1) / (class.taken - 1))
      end
      names[#names + 1] = all[at]
    end
  end
end
table.sort(names, is_older)
return answer(names)
