-- Keep features of texts for a while, and let the oldest go until all are within the bound.
--
-- KEYS[1] is the start of every key; its hash tag keeps them in one cluster slot.
--   f<name>   string: features of one text; the server itself lets it expire
--   order     list, oldest first: {name, bytes, milliseconds since 1970 when it expires}
--   bytes     sum of the bytes in `order`: never less than what is kept
--
-- ARGV: max_bytes, life in milliseconds, names of 16 bytes in one string, then
-- the features of each.
-- Answers {how many are new}. What is kept already stays as it is, and expires when it would have.
local base, max_bytes, life_ms = KEYS[1], tonumber(ARGV[1]), ARGV[2]
local order, sum = base .. 'order', base .. 'bytes'
local CLEANED = 4 -- expired places cleared away for each row at most: a call stays short
local MARGIN_MS = 1000 -- a place is cleared when its features have surely expired
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local bytes = redis.call('EXISTS', order) == 1 and tonumber(redis.call('GET', sum)) or 0

local function oldest()
  local packed = redis.call('LINDEX', order, 0)
  return packed and cmsgpack.unpack(packed)
end

local function is_over(place)
  return place[3] + MARGIN_MS <= now_ms
end

-- Features that have expired may have been kept again since: those are another place's.
local function take_out(place)
  redis.call('LPOP', order)
  redis.call(is_over(place) and 'EXISTS' or 'DEL', base .. 'f' .. place[1]) -- to look is to clear
  bytes = bytes - place[2]
end

local function make_room(needed)
  local place = oldest()
  while place and bytes + needed > max_bytes do
    take_out(place)
    place = oldest()
  end
end

local new = 0
local place = oldest()
for _ = 1, CLEANED * (#ARGV - 3) do
  if not place or not is_over(place) then
    break
  end
  take_out(place)
  place = oldest()
end
make_room(0) -- the bound may have been lowered
for n = 1, #ARGV - 3 do
  local name, row = string.sub(ARGV[3], 16 * n - 15, 16 * n), ARGV[3 + n]
  local key = base .. 'f' .. name
  local needed = #key + #row
  if needed <= max_bytes and redis.call('EXISTS', key) == 0 then
    make_room(needed)
    redis.call('SET', key, row, 'PX', life_ms)
    redis.call('RPUSH', order, cmsgpack.pack({name, needed, now_ms + life_ms}))
    bytes, new = bytes + needed, new + 1
  end
end
redis.call('SET', sum, string.format('%.0f', bytes), 'PX', life_ms + 2 * MARGIN_MS)
if new > 0 then
  redis.call('PEXPIRE', order, life_ms + 2 * MARGIN_MS)
end
return {new}
