-- Rows of the train part by the level of their last told loss. Put after replay_state.

-- Weight of a level, in thousandths of the priority of loss 1; as `priority` in rehearsal.py.
local function priority(level)
  return math.floor(1000 * 2 ^ (0.15 * level) + 0.5)
end

-- Levels with their sizes and weights, from the least loss to the most, and the sum of all weights.
-- Rows of no told loss come last, and weigh what those of the most urgent level do.
--   sign: 1 for the priority, -1 for its inverse
local function levels_of(sign)
  local told, untold, total = {}, nil, 0
  for name, size in pairs(levels_now().sizes) do
    local level = {name = name, size = size, height = tonumber(name)}
    if name == UNTOLD then
      untold = level
    else
      told[#told + 1] = level
    end
  end
  table.sort(told, function(a, b) return a.height < b.height end)
  if untold then
    untold.height = #told > 0 and told[#told].height or 0
    told[#told + 1] = untold
  end
  for _, level in ipairs(told) do
    level.weight = priority(sign * level.height)
    total = total + level.weight * level.size
  end
  return told, total
end

-- The row whose weight holds the whole number `at`, of 0..total-1.
local function name_at_weight(told, at)
  for _, level in ipairs(told) do
    local mass = level.weight * level.size
    if at < mass then
      return name_at('level:' .. level.name, math.floor(at / level.weight))
    end
    at = at - mass
  end
end
