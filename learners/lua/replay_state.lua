-- State of one task's replay memory. Put before the scripts that change or read it.
--
-- KEYS[1] is the start of every key; its hash tag keeps them in one cluster slot. A row lives in one
-- of two parts: t (train) and h (held out).
--   rows              hash: id to the row as the caller wrote it
--   at                hash: id to {part, class, slot, bytes, user, revision}, and for a row of t
--                     {..., level, slot in its level}
--   sizes:<part>      hash: class to how many rows it has
--   slots:<part>:<c>  hash: 0..size-1 to id; a row that leaves is replaced by the last one
--   levels            hash: level of the last told loss to how many rows of t have it; 'new': untold
--   level:<l>         hash: 0..size-1 to id, as slots
--   order, order:h    sorted sets: ids of t, and of h, by arrival
--   user:<user>       set of ids
--   n                 hash: rows:<part>, bytes:<part>, offers, arrivals
local base = KEYS[1]
local PARTS = {'t', 'h'}
local ORDER = {t = 'order', h = 'order:h'}
local SLOT, LEVEL, LEVEL_SLOT = 3, 7, 8 -- places in `at`
local UNTOLD = 'new'

local function number(field)
  return tonumber(redis.call('HGET', base .. 'n', field)) or 0
end

local function place(id)
  local at = redis.call('HGET', base .. 'at', id)
  return at and cmsgpack.unpack(at)
end

local function put_place(id, at)
  redis.call('HSET', base .. 'at', id, cmsgpack.pack(at))
end

-- Classes of a part with their sizes, by name, so that the same memory always draws the same rows.
local function classes_of(part)
  local flat, classes = redis.call('HGETALL', base .. 'sizes:' .. part), {}
  for n = 1, #flat, 2 do
    classes[#classes + 1] = {name = flat[n], size = tonumber(flat[n + 1])}
  end
  table.sort(classes, function(a, b) return a.name < b.name end)
  return classes
end

-- Append a row to a list of slots whose size is `sizes[name]`. Answers its slot.
local function join_slots(sizes, name, slots, id)
  local slot = redis.call('HINCRBY', base .. sizes, name, 1) - 1
  redis.call('HSET', base .. slots .. name, slot, id)
  return slot
end

-- Take the row at `slot` out; `field` is where the row that moves there remembers its slot.
local function leave_slots(sizes, name, slots, slot, field)
  local last = redis.call('HINCRBY', base .. sizes, name, -1)
  if last ~= slot then
    local moved = redis.call('HGET', base .. slots .. name, last)
    local moved_at = place(moved)
    moved_at[field] = slot
    redis.call('HSET', base .. slots .. name, slot, moved)
    put_place(moved, moved_at)
  end
  redis.call('HDEL', base .. slots .. name, last)
  if last == 0 then
    redis.call('HDEL', base .. sizes, name)
  end
end

local function remove(id, at)
  local part, class, slot, bytes, user = unpack(at)
  leave_slots('sizes:' .. part, class, 'slots:' .. part .. ':', slot, SLOT)
  if part == 't' then
    leave_slots('levels', at[LEVEL], 'level:', at[LEVEL_SLOT], LEVEL_SLOT)
  end
  redis.call('ZREM', base .. ORDER[part], id)
  redis.call('HDEL', base .. 'rows', id)
  redis.call('HDEL', base .. 'at', id)
  redis.call('SREM', base .. 'user:' .. user, id)
  redis.call('HINCRBY', base .. 'n', 'rows:' .. part, -1)
  redis.call('HINCRBY', base .. 'n', 'bytes:' .. part, -bytes)
end

local function insert(id, revision, part, class, user, row)
  local bytes = #row + #id
  local at = {part, class, 0, bytes, user, revision}
  at[SLOT] = join_slots('sizes:' .. part, class, 'slots:' .. part .. ':', id)
  if part == 't' then
    at[LEVEL], at[LEVEL_SLOT] = UNTOLD, join_slots('levels', UNTOLD, 'level:', id)
  end
  redis.call('ZADD', base .. ORDER[part], redis.call('HINCRBY', base .. 'n', 'arrivals', 1), id)
  put_place(id, at)
  redis.call('HSET', base .. 'rows', id, row)
  redis.call('SADD', base .. 'user:' .. user, id)
  redis.call('HINCRBY', base .. 'n', 'rows:' .. part, 1)
  redis.call('HINCRBY', base .. 'n', 'bytes:' .. part, bytes)
end

-- Rows by id, in order; a few hundred at a time, since Lua's stack is bounded.
local function rows_of(ids)
  local rows = {}
  for first = 1, #ids, 500 do
    local some = redis.call('HMGET', base .. 'rows', unpack(ids, first, math.min(first + 499, #ids)))
    for _, row in ipairs(some) do
      rows[#rows + 1] = row
    end
  end
  return rows
end
