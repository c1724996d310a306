-- Rows of the train part by the level of their last told loss. Put after replay_state.

-- Weight of a level, in thousandths of the priority of loss 1; as `priority` in rehearsal.py.
local function priority(level)
  return math.floor(1000 * 2 ^ (0.15 * level) + 0.5)
end

-- Levels with their sizes and weights, from the least loss to the most, and the sum of all weights.
-- Rows of no told loss come last, and weigh what those of the most urgent level do.
--   sign: 1 for the priority, -1 for its inverse
local function levels_of(sign)
  local flat, levels, untold = redis.call('HGETALL', base .. 'levels'), {}, nil
  for n = 1, #flat, 2 do
    local level = {name = flat[n], size = tonumber(flat[n + 1]), height = tonumber(flat[n])}
    if flat[n] == UNTOLD then
      untold = level
    else
      levels[#levels + 1] = level
    end
  end
  table.sort(levels, function(a, b) return a.height < b.height end)
  if untold then
    untold.height = #levels > 0 and levels[#levels].height or 0
    levels[#levels + 1] = untold
  end
  local total = 0
  for _, level in ipairs(levels) do
    level.weight = priority(sign * level.height)
    total = total + level.weight * level.size
  end
  return levels, total
end

-- The row whose weight holds the whole number `at`, of 0..total-1.
local function row_at_weight(levels, at)
  for _, level in ipairs(levels) do
    local mass = level.weight * level.size
    if at < mass then
      return redis.call('HGET', base .. 'level:' .. level.name, math.floor(at / level.weight))
    end
    at = at - mass
  end
end
