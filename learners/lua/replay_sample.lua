-- Draw rows of the train part, with replacement; reads only.
--
-- ARGV: policy, MessagePack array of draws in [0,1). Answers the rows, one a draw.
local classes = classes_of('t')
if #classes == 0 then
  return {}
end
local total, ends = 0, {}
for n, class in ipairs(classes) do
  total = total + class.size
  ends[n] = total
end

-- First class whose rows end after `row`.
local function class_at(row)
  local low, high = 1, #ends
  while low < high do
    local middle = math.floor((low + high) / 2)
    if ends[middle] > row then
      high = middle
    else
      low = middle + 1
    end
  end
  return low
end

local ids = {}
for n, draw in ipairs(cmsgpack.unpack(ARGV[2])) do
  local class, slot
  if ARGV[1] == 'reservoir' then -- uniform over rows
    local row = math.floor(draw * total)
    local which = class_at(row)
    class, slot = classes[which], row - (ends[which] - classes[which].size)
  else -- uniform over classes, then within: the draw's integer part, then its fraction
    local scaled = draw * #classes
    class = classes[math.floor(scaled) + 1]
    slot = math.floor((scaled - math.floor(scaled)) * class.size)
  end
  ids[n] = redis.call('HGET', base .. 'slots:t:' .. class.name, slot)
end
return rows_of(ids)
