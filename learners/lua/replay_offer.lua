-- Offer rows in order, atomically, and evict until the memory is within its bounds.
--
-- ARGV: policy, recent_rows, max_rows, max_bytes, held_out_rows, MessagePack array of
--   {id, revision, part, class, user, admit in [0,1), seed}, then one row an offer.
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

-- Sizes of this call's classes, read once and kept true.
local sizes = {}
for _, part in ipairs(PARTS) do
  sizes[part] = {}
  for _, class in ipairs(classes_of(part)) do
    sizes[part][class.name] = class.size
  end
end
local rows = {t = number('rows:t'), h = number('rows:h')}
local bytes = {t = number('bytes:t'), h = number('bytes:h')}
local offers = number('offers')
local max_part_rows = {t = max_rows, h = held_out_rows}
-- Held-out rows never push out more than a quarter of what trains.
local max_part_bytes = {t = max_bytes, h = math.floor(max_bytes / 4)}

-- Class names in order, kept until a class comes or goes, so that equal calls evict equal rows.
local names_of = {}
local function names(part)
  if not names_of[part] then
    local sorted = {}
    for name in pairs(sizes[part]) do
      sorted[#sorted + 1] = name
    end
    table.sort(sorted)
    names_of[part] = sorted
  end
  return names_of[part]
end

local function slot_of(part, class, slot)
  return redis.call('HGET', base .. 'slots:' .. part .. ':' .. class, slot)
end

local function resize(part, class, by)
  local size = (sizes[part][class] or 0) + by
  if size == 0 or not sizes[part][class] then
    names_of[part] = nil
  end
  sizes[part][class] = size > 0 and size or nil
  rows[part] = rows[part] + by
end

local function take_out(id, at)
  remove(id, at)
  resize(at[1], at[2], -1)
  bytes[at[1]] = bytes[at[1]] - at[4]
end

local function put_in(id, revision, part, class, user, row)
  insert(id, revision, part, class, user, row)
  resize(part, class, 1)
  bytes[part] = bytes[part] + #row + #id
end

-- Which row is lost, by policy: answers its id.
--   coming: class of the row that needs room, or false when it is of the other part
local VICTIMS = {}

-- A row of the class that would be the largest, the first by name of equals.
VICTIMS['class-balanced'] = function(part, coming)
  local largest, most = nil, 0
  for _, name in ipairs(names(part)) do
    local size = sizes[part][name] + (name == coming and 1 or 0)
    if size > most then
      largest, most = name, size
    end
  end
  return slot_of(part, largest, random_below(sizes[part][largest]))
end

VICTIMS['reservoir'] = function(part)
  local left = random_below(rows[part])
  for _, name in ipairs(names(part)) do
    if left < sizes[part][name] then
      return slot_of(part, name, left)
    end
    left = left - sizes[part][name]
  end
end

-- The row that leaves the window of recent rows stays with probability old/left, of the rows that
-- have left it so far, in the place of an old one; `order` has the old rows first.
VICTIMS['recency-mixed'] = function()
  local window = math.min(recent_rows, rows.t)
  local old = rows.t - window
  local left = math.max(offers - window, old + 1)
  local rank = math.min(random_below(left), old)
  return redis.call('ZRANGE', base .. 'order', rank, rank)[1]
end

-- A row of little loss before one of much.
VICTIMS['loss-aware'] = function()
  local levels, total = levels_of(-1)
  return row_at_weight(levels, random_below(total))
end

local function evict(part, coming)
  local id = VICTIMS[part == 't' and policy or 'class-balanced'](part, coming)
  take_out(id, place(id))
  evicted = evicted + 1
end

local function part_is_full(part, needed)
  return rows[part] >= max_part_rows[part] or bytes[part] + needed > max_part_bytes[part]
end

local function all_is_full(needed)
  return bytes.t + bytes.h + needed > max_bytes
end

-- Make room before the row comes in: a row that was just admitted is never its own victim.
local function make_room(part, class, needed)
  while part_is_full(part, needed) do
    evict(part, class)
  end
  while all_is_full(needed) do
    evict(rows.t > 0 and 't' or 'h', part == 't' and class)
  end
end

for n, offer in ipairs(cmsgpack.unpack(ARGV[6])) do
  local id, revision, part, class, user, admit, start = unpack(offer)
  local row = ARGV[6 + n]
  local needed, at = #row + #id, place(id)
  seed = start
  if at and at[6] >= revision then
    known = known + 1
  elseif needed > max_part_bytes[part] or max_part_rows[part] == 0 then
    if at then -- what it replaces is wrong now
      take_out(id, at)
    end
    passed = passed + 1
  elseif at then
    take_out(id, at)
    make_room(part, class, needed)
    put_in(id, revision, part, class, user, row)
    replaced = replaced + 1
  else
    local welcome = true
    if part == 't' then
      offers = offers + 1
      if ADMITS_SOME[policy] and (part_is_full(part, needed) or all_is_full(needed)) then
        welcome = math.floor(admit * offers) < math.max(rows.t, 1)
      end
    end
    if welcome then
      make_room(part, class, needed)
      put_in(id, revision, part, class, user, row)
      added = added + 1
    else
      passed = passed + 1
    end
  end
end
redis.call('HSET', base .. 'n', 'offers', offers)
return {added, replaced, known, passed, evicted}
