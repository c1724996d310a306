-- Draw rows of the train part, with replacement; reads only.
--
-- ARGV: recent_rows, MessagePack array of {law, start, width} in order of start, MessagePack array of
-- draws in [0,1). Answers the rows, one a draw, as `answer` gives them.
local recent_rows, cuts = tonumber(ARGV[1]), cmsgpack.unpack(ARGV[2])
local classes = classes_of('t')
if #classes == 0 then
  return answer({})
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

local function of_class(class, slot)
  return name_at('slots:t:' .. class.name, slot)
end

local told, mass -- read when a law needs them

local LAWS = {
  -- Uniform over classes, then within: the draw's integer part, then its fraction.
  ['class-balanced'] = function(draw)
    local scaled = draw * #classes
    local class = classes[math.floor(scaled) + 1]
    return of_class(class, math.floor((scaled - math.floor(scaled)) * class.size))
  end,
  uniform = function(draw)
    local row = math.floor(draw * total)
    local class = class_at(row)
    return of_class(classes[class], row - (ends[class] - classes[class].size))
  end,
  recent = function(draw)
    return name_from_newest(math.floor(draw * math.min(recent_rows, total)))
  end,
  loss = function(draw)
    if not told then
      told, mass = levels_of(1)
    end
    return name_at_weight(told, math.floor(draw * mass))
  end
}

-- The law of a draw, and the draw stretched over the law's cut.
local function law_of(draw)
  local cut = 1
  while cut < #cuts and draw >= cuts[cut + 1][2] do
    cut = cut + 1
  end
  local law, start, width = unpack(cuts[cut])
  return LAWS[law], math.min((draw - start) / width, 1 - 2 ^ -53)
end

local names = {}
for n, draw in ipairs(cmsgpack.unpack(ARGV[3])) do
  local law, stretched = law_of(draw)
  names[n] = law(stretched)
end
return answer(names)
