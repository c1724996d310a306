-- Offer rows in order, atomically, and evict until the memory is within its bounds.
--
-- ARGV: policy, recent_rows, max_rows, max_bytes, held_out_rows, names in one string, chances (admit in
--   [0,1), seed) of 12 bytes each in one string, MessagePack array of classes, then one row an offer.
-- Answers: added, replaced, known, passed, evicted.
local policy, recent_rows = ARGV[1], tonumber(ARGV[2])
local max_rows, max_bytes, held_out_rows = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
-- Policies that take the n-th of all offers with probability size/n, as Algorithm R does.
local ADMITS_SOME = {['reservoir'] = true, ['loss-aware'] = true}
local added, replaced, known, passed, evicted = 0, 0, 0, 0, 0

-- The minimal standard generator (Park and Miller, CACM 1988): exact in doubles, seeded by the caller.
local seed = 1
local function random_below(limit)
  seed = (seed * 16807) % 2147483647
  return math.floor(seed / 2147483647 * limit)
end

local max_part_rows = {t = max_rows, h = held_out_rows}
-- Held-out rows never push out more than a quarter of what trains.
local max_part_bytes = {t = max_bytes, h = math.floor(max_bytes / 4)}

local function rows_in(part)
  return counts['rows:' .. part]
end

-- Class names in order, kept until a class comes or goes, so that equal calls evict equal rows.
local names_of = {}
local function names(part)
  if not names_of[part] then
    local sorted = {}
    for name in pairs(sizes[part].sizes) do
      sorted[#sorted + 1] = name
    end
    table.sort(sorted)
    names_of[part] = sorted
  end
  return names_of[part]
end

-- Classes of a part by their size, in order of name; `most` is the largest size.
local by_size = {}
local function classes_by_size(part)
  if not by_size[part] then
    local sorted, own = {most = 0}, sizes[part].sizes
    for _, class in ipairs(names(part)) do
      local size = own[class]
      sorted[size] = sorted[size] or {}
      table.insert(sorted[size], class)
      sorted.most = math.max(sorted.most, size)
    end
    by_size[part] = sorted
  end
  return by_size[part]
end

-- Where a class is among those of one size, or would be.
local function place_of(classes, class)
  local low, high = 1, #classes + 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    if classes[middle] < class then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

-- A class has one row more, or one less.
local function resized(part, class, before, after)
  if before == 0 or after == 0 then
    names_of[part] = nil
  end
  local sorted = by_size[part]
  if not sorted then
    return
  end
  if before > 0 then
    table.remove(sorted[before], place_of(sorted[before], class))
  end
  if after > 0 then
    sorted[after] = sorted[after] or {}
    table.insert(sorted[after], place_of(sorted[after], class), class)
  end
  if after > sorted.most or (before == sorted.most and #sorted[before] == 0) then
    sorted.most = after
  end
end

local function take_out(name, row)
  local size = sizes[row.part].sizes[row.class]
  remove(name, row)
  resized(row.part, row.class, size, size - 1)
end

local function put_in(name, row, written)
  local size = sizes[row.part].sizes[row.class] or 0
  insert(name, row, written)
  resized(row.part, row.class, size, size + 1)
end

-- Which row is lost, by policy: answers its name.
--   coming: class of the row that needs room, or false when it is of the other part
local VICTIMS = {}

-- A row of the class that would be the largest, the first by name of equals.
VICTIMS['class-balanced'] = function(part, coming)
  local sorted, own = classes_by_size(part), sizes[part].sizes
  local largest = sorted[sorted.most][1]
  local grown = own[coming] and own[coming] + 1 or 0
  if grown > sorted.most or (grown == sorted.most and coming < largest) then
    largest = coming
  end
  return name_at('slots:' .. part .. ':' .. largest, random_below(own[largest]))
end

VICTIMS['reservoir'] = function(part)
  local left, own = random_below(rows_in(part)), sizes[part].sizes
  for _, name in ipairs(names(part)) do
    if left < own[name] then
      return name_at('slots:' .. part .. ':' .. name, left)
    end
    left = left - own[name]
  end
end

-- The row that leaves the window of recent rows stays with probability old/left, of the rows that
-- have left it so far, in the place of an old one; the order has the old rows first.
VICTIMS['recency-mixed'] = function()
  local window = math.min(recent_rows, rows_in('t'))
  local old = rows_in('t') - window
  local left = math.max(counts.offers - window, old + 1)
  local rank = math.min(random_below(left), old)
  return name_from_newest(rows_in('t') - 1 - rank)
end

-- A row of little loss before one of much.
VICTIMS['loss-aware'] = function()
  local told, total = levels_of(-1)
  return name_at_weight(told, random_below(total))
end

local function evict(part, coming)
  local name = VICTIMS[part == 't' and policy or 'class-balanced'](part, coming)
  take_out(name, read_row(stored(name)))
  evicted = evicted + 1
end

local function part_is_full(part, needed)
  return rows_in(part) >= max_part_rows[part] or counts['bytes:' .. part] + needed > max_part_bytes[part]
end

local function all_is_full(needed)
  return counts['bytes:t'] + counts['bytes:h'] + needed > max_bytes
end

-- Make room before the row comes in: a row that was just admitted is never its own victim.
local function make_room(part, class, needed)
  while part_is_full(part, needed) do
    evict(part, class)
  end
  while all_is_full(needed) do
    evict(rows_in('t') > 0 and 't' or 'h', part == 't' and class)
  end
end

-- Which of the offered rows may be there: most are not, and need not be looked for one by one.
local offered, classes, may_be_there = names_in(ARGV[6]), cmsgpack.unpack(ARGV[8]), {}
for n, value in ipairs(rows_of(offered)) do
  may_be_there[offered[n]] = value and true
end

for n, name in ipairs(offered) do
  local written = ARGV[8 + n]
  local row = read_row(struct.pack(HEAD, 0, 0, 0, 0, '    ') .. written, classes[n])
  local value = may_be_there[name] and stored(name)
  may_be_there[name] = true
  local at = value and read_row(value)
  local admit
  admit, seed = struct.unpack('>dI4', ARGV[7], 12 * n - 11)
  if at and (at.revision >= row.revision or at.id ~= row.id) then
    known = known + 1
  elseif row.bytes > max_part_bytes[row.part] or max_part_rows[row.part] == 0 then
    if at then -- what it replaces is wrong now
      take_out(name, at)
    end
    passed = passed + 1
  elseif at then
    take_out(name, at)
    make_room(row.part, row.class, row.bytes)
    put_in(name, row, written)
    replaced = replaced + 1
  else
    local welcome = true
    if row.part == 't' then
      counts.offers = counts.offers + 1
      if ADMITS_SOME[policy] and (part_is_full('t', row.bytes) or all_is_full(row.bytes)) then
        welcome = math.floor(admit * counts.offers) < math.max(rows_in('t'), 1)
      end
    end
    if welcome then
      make_room(row.part, row.class, row.bytes)
      put_in(name, row, written)
      added = added + 1
    else
      passed = passed + 1
    end
  end
end
save()
return {added, replaced, known, passed, evicted}
