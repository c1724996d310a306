-- State of one task's replay memory. Put before the scripts that change or read it.
--
-- KEYS[1] is the start of every key; its hash tag keeps them in one cluster slot. A row lives in one
-- of two parts: t (train) and h (held out).
--   rows              hash: id to the row as the caller wrote it
--   at                hash: id to {part, class, slot, bytes, user, revision}
--   sizes:<part>      hash: class to how many rows it has
--   slots:<part>:<c>  hash: 0..size-1 to id; a row that leaves is replaced by the last one
--   user:<user>       set of ids
--   n                 hash: rows:<part>, bytes:<part>, offers
local base = KEYS[1]
local PARTS = {'t', 'h'}

local function number(field)
  return tonumber(redis.call('HGET', base .. 'n', field)) or 0
end

local function place(id)
  local at = redis.call('HGET', base .. 'at', id)
  return at and cmsgpack.unpack(at)
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

local function remove(id, at)
  local part, class, slot, bytes, user = unpack(at)
  local slots = base .. 'slots:' .. part .. ':' .. class
  local last = redis.call('HINCRBY', base .. 'sizes:' .. part, class, -1)
  if last ~= slot then
    local moved = redis.call('HGET', slots, last)
    local moved_at = place(moved)
    moved_at[3] = slot
    redis.call('HSET', slots, slot, moved)
    redis.call('HSET', base .. 'at', moved, cmsgpack.pack(moved_at))
  end
  redis.call('HDEL', slots, last)
  if last == 0 then
    redis.call('HDEL', base .. 'sizes:' .. part, class)
  end
  redis.call('HDEL', base .. 'rows', id)
  redis.call('HDEL', base .. 'at', id)
  redis.call('SREM', base .. 'user:' .. user, id)
  redis.call('HINCRBY', base .. 'n', 'rows:' .. part, -1)
  redis.call('HINCRBY', base .. 'n', 'bytes:' .. part, -bytes)
end

local function insert(id, revision, part, class, user, row)
  local bytes = #row + #id
  local slot = redis.call('HINCRBY', base .. 'sizes:' .. part, class, 1) - 1
  redis.call('HSET', base .. 'slots:' .. part .. ':' .. class, slot, id)
  redis.call('HSET', base .. 'at', id, cmsgpack.pack({part, class, slot, bytes, user, revision}))
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
