-- State of one task's replay memory. Put before the scripts that change or read it.
--
-- KEYS[1] is the start of every key; its hash tag keeps them in one cluster slot. A row lives in one
-- of two parts: t (train) and h (held out). Its name is a hash of its id, of 8 bytes; lists of rows
-- are names without anything between them, since what each row costs is mostly such places.
--   rows              hash: name to its head (slot, level, slot in its level, arrival, number of its
--                     class) and the rest as the caller wrote it: how many bytes of an id come
--                     first, these, and MessagePack {id if not, user, text, revision, held out,
--                     and the labels where they are a list}
--   numbers, classes  hashes: class to its number, 4 bytes, and back, while a row has it
--   sizes:<part>      hash: class to how many rows it has
--   slots:<part>:<c>  list of names; a row that leaves is replaced by the last one
--   levels            hash: level of the last told loss to how many rows of t have it; 'new': untold
--   level:<l>         list of names, as slots
--   order:<part>      hash: page to {arrival within the page, name}, 9 bytes each, by arrival
--   users             hash: bucket of users to the list of their rows' names
--   n                 hash: rows:<part>, bytes:<part>, offers, arrivals, classes (that ever came)
local base = KEYS[1]
local PARTS = {'t', 'h'}
local NAME, HEAD = 8, '>I4bI4I5c4'
local HEAD_BYTES = 18
local UNTOLD, OF_NO_LEVEL = 'new', -128 -- in a head, untold is 127
local PAGE, ENTRY = 128, 9 -- arrivals of a page, and bytes of one
local SHRUNK = 256 -- rows by which a list shrinks until its memory is given back
local COUNTS = {'rows:t', 'rows:h', 'bytes:t', 'bytes:h', 'offers', 'arrivals', 'classes'}

local counts, sizes, levels = {}, {}, {} -- read once, kept true, and written by `save`
for n, value in ipairs(redis.call('HMGET', base .. 'n', unpack(COUNTS))) do
  counts[COUNTS[n]] = tonumber(value) or 0
end

local function table_at(key)
  local flat, read = redis.call('HGETALL', base .. key), {}
  for n = 1, #flat, 2 do
    read[flat[n]] = tonumber(flat[n + 1])
  end
  return {key = key, sizes = read, changed = {}}
end
for _, part in ipairs(PARTS) do
  sizes[part] = table_at('sizes:' .. part)
end

local function levels_now()
  if not levels.sizes then
    levels = table_at('levels')
  end
  return levels
end

-- Entries of a page. The newest page of a part is read once, and written by `save`.
local newest = {}

local function write_page(part, page, entries)
  if entries == '' then
    redis.call('HDEL', base .. 'order:' .. part, page)
  else
    redis.call('HSET', base .. 'order:' .. part, page, entries)
  end
end

local function entries_of(part, page)
  if newest[part] and newest[part].page == page then
    return newest[part].entries
  end
  return redis.call('HGET', base .. 'order:' .. part, page) or ''
end

local numbers, class_of = {}, {} -- of the classes that this call met

local function number_of(class)
  local number = numbers[class] or redis.call('HGET', base .. 'numbers', class)
  if not number then
    counts.classes = counts.classes + 1
    number = struct.pack('>I4', counts.classes)
    redis.call('HSET', base .. 'numbers', class, number)
    redis.call('HSET', base .. 'classes', number, class)
  end
  numbers[class], class_of[number] = number, class
  return number
end

local function class_numbered(number)
  local class = class_of[number] or redis.call('HGET', base .. 'classes', number)
  numbers[class], class_of[number] = number, class
  return class
end

local function forget_empty_classes()
  for _, part in ipairs(PARTS) do
    for class in pairs(sizes[part].changed) do
      if not sizes.t.sizes[class] and not sizes.h.sizes[class] and numbers[class] then
        redis.call('HDEL', base .. 'classes', numbers[class])
        redis.call('HDEL', base .. 'numbers', class)
        numbers[class] = nil
      end
    end
  end
end

-- Write what changed. Every script that changes anything ends with it.
local function save()
  forget_empty_classes()
  for part, one in pairs(newest) do
    write_page(part, one.page, one.entries)
  end
  local flat = {}
  for n, name in ipairs(COUNTS) do
    flat[2 * n - 1], flat[2 * n] = name, string.format('%.0f', counts[name])
  end
  redis.call('HSET', base .. 'n', unpack(flat))
  for _, one in ipairs({sizes.t, sizes.h, levels}) do
    for name in pairs(one.changed or {}) do
      if one.sizes[name] then
        redis.call('HSET', base .. one.key, name, one.sizes[name])
      else
        redis.call('HDEL', base .. one.key, name)
      end
    end
  end
end

-- Classes of a part with their sizes, by name, so that the same memory always draws the same rows.
local function classes_of(part)
  local classes = {}
  for name, size in pairs(sizes[part].sizes) do
    classes[#classes + 1] = {name = name, size = size}
  end
  table.sort(classes, function(a, b) return a.name < b.name end)
  return classes
end

local function name_at(list, slot)
  return redis.call('GETRANGE', base .. list, NAME * slot, NAME * slot + NAME - 1)
end

local function stored(name)
  return redis.call('HGET', base .. 'rows', name)
end

-- What is known of a row, from what is stored of it; `class` where the row has no number yet.
local function read_row(value, class)
  local row = {}
  row.slot, row.level, row.level_slot, row.arrival, row.number = struct.unpack(HEAD, value)
  local fields = HEAD_BYTES + 2 + string.byte(value, HEAD_BYTES + 1)
  row.id, row.user, row.text, row.revision, row.held_out = unpack(
    cmsgpack.unpack(string.sub(value, fields)))
  if fields > HEAD_BYTES + 2 then
    row.id = string.sub(value, HEAD_BYTES + 2, fields - 1)
  end
  row.part = row.held_out and 'h' or 't'
  row.class = class or class_numbered(row.number)
  row.bytes = #value + NAME
  return row
end

local function level_name(level)
  return level == 127 and UNTOLD or string.format('%d', level)
end

-- Append a row to a list whose size is `of.sizes[of_name]`. Answers its slot. A list that is full
-- becomes an eighth longer: the server alone would take twice as much.
local function join_list(of, of_name, list, name)
  local slot = of.sizes[of_name] or 0
  of.sizes[of_name], of.changed[of_name] = slot + 1, true
  local used = NAME * (slot + 1)
  if redis.call('SETRANGE', base .. list, NAME * slot, name) == used then
    local spare = string.rep('\0', NAME * math.floor(slot / 8))
    redis.call('SET', base .. list, redis.call('GETRANGE', base .. list, 0, used - 1) .. spare)
  end
  return slot
end

-- Take the row at `slot` out; the row that moves there remembers its slot at byte `at` of its head.
local function leave_list(of, of_name, list, slot, at)
  local last = of.sizes[of_name] - 1
  of.sizes[of_name], of.changed[of_name] = last > 0 and last or nil, true
  if last ~= slot then
    local moved = name_at(list, last)
    local value = stored(moved)
    redis.call('SETRANGE', base .. list, NAME * slot, moved)
    redis.call('HSET', base .. 'rows', moved,
      string.sub(value, 1, at - 1) .. struct.pack('>I4', slot) .. string.sub(value, at + 4))
  end
  if last == 0 then
    redis.call('DEL', base .. list)
  elseif last % SHRUNK == 0 and redis.call('STRLEN', base .. list) > 2 * NAME * last then
    redis.call('SET', base .. list, redis.call('GETRANGE', base .. list, 0, NAME * last - 1))
  end
end

local page_rows = {} -- by page of t: rows in it, where that was asked for

local function join_order(part, arrival, name)
  local page, last = math.floor(arrival / PAGE), newest[part]
  if not last or last.page ~= page then
    if last then
      write_page(part, last.page, last.entries)
    end
    last = {page = page, entries = redis.call('HGET', base .. 'order:' .. part, page) or ''}
    newest[part] = last
  end
  last.entries = last.entries .. string.char(arrival % PAGE) .. name
  if part == 't' and page_rows[page] then
    page_rows[page] = page_rows[page] + 1
  end
end

local function leave_order(part, arrival)
  local page, offset = math.floor(arrival / PAGE), arrival % PAGE
  local entries = entries_of(part, page)
  local low, high = 0, #entries / ENTRY - 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    if string.byte(entries, ENTRY * middle + 1) < offset then
      low = middle + 1
    else
      high = middle
    end
  end
  entries = string.sub(entries, 1, ENTRY * low) .. string.sub(entries, ENTRY * low + ENTRY + 1)
  if newest[part] and newest[part].page == page then
    newest[part].entries = entries
  else
    write_page(part, page, entries)
  end
  if part == 't' and page_rows[page] then
    page_rows[page] = page_rows[page] - 1
  end
end

local function pages_of(part)
  local pages = {}
  for n, page in ipairs(redis.call('HKEYS', base .. 'order:' .. part)) do
    pages[n] = tonumber(page)
  end
  table.sort(pages)
  return pages
end

-- The row of t that has `rank` newer ones. Pages are looked at one by one, and listed only where
-- many in a row are empty.
local function name_from_newest(rank)
  local page, empty, pages = math.floor(counts.arrivals / PAGE), 0, nil
  while true do
    local rows = page_rows[page]
    if not rows then
      rows = newest.t and newest.t.page == page and #newest.t.entries
      rows = (rows or redis.call('HSTRLEN', base .. 'order:t', page)) / ENTRY
      page_rows[page] = rows
    end
    if rank < rows then
      local at = ENTRY * (rows - 1 - rank)
      return string.sub(entries_of('t', page), at + 2, at + ENTRY)
    end
    rank, empty = rank - rows, rows == 0 and empty + 1 or 0
    page = page - 1
    if empty > 32 then
      pages = pages or pages_of('t')
      while pages[#pages] > page do
        pages[#pages] = nil
      end
      page, empty = pages[#pages], 0
    end
  end
end

-- One of 1,024: few for a large memory, since each costs the server what five names do.
local function bucket_of(user)
  return math.floor(tonumber(string.sub(redis.sha1hex(user), 1, 3), 16) / 4)
end

local function names_in(list)
  local names = {}
  for first = 1, #list, NAME do
    names[#names + 1] = string.sub(list, first, first + NAME - 1)
  end
  return names
end

local function join_user(user, name)
  local bucket = bucket_of(user)
  redis.call('HSET', base .. 'users', bucket, (redis.call('HGET', base .. 'users', bucket) or '') .. name)
end

local function leave_user(user, name)
  local bucket = bucket_of(user)
  local list = redis.call('HGET', base .. 'users', bucket)
  local at = string.find(list, name, 1, true)
  while at % NAME ~= 1 do -- the end of one name and the start of the next
    at = string.find(list, name, at + 1, true)
  end
  list = string.sub(list, 1, at - 1) .. string.sub(list, at + NAME)
  if list == '' then
    redis.call('HDEL', base .. 'users', bucket)
  else
    redis.call('HSET', base .. 'users', bucket, list)
  end
end

local function count(part, rows, bytes)
  counts['rows:' .. part] = counts['rows:' .. part] + rows
  counts['bytes:' .. part] = counts['bytes:' .. part] + bytes
end

local function remove(name, row)
  leave_list(sizes[row.part], row.class, 'slots:' .. row.part .. ':' .. row.class, row.slot, 1)
  if row.part == 't' then
    local level = level_name(row.level)
    leave_list(levels_now(), level, 'level:' .. level, row.level_slot, 6)
  end
  leave_order(row.part, row.arrival)
  leave_user(row.user, name)
  redis.call('HDEL', base .. 'rows', name)
  count(row.part, -1, -row.bytes)
end

-- `row` is what `read_row` gives, of which places and bytes come true here.
local function insert(name, row, written)
  local arrival, level, level_slot = counts.arrivals + 1, OF_NO_LEVEL, 0
  counts.arrivals = arrival
  local slot = join_list(sizes[row.part], row.class, 'slots:' .. row.part .. ':' .. row.class, name)
  if row.part == 't' then
    level, level_slot = 127, join_list(levels_now(), UNTOLD, 'level:' .. UNTOLD, name)
  end
  join_order(row.part, arrival, name)
  join_user(row.user, name)
  redis.call('HSET', base .. 'rows', name,
    struct.pack(HEAD, slot, level, level_slot, arrival, number_of(row.class)) .. written)
  count(row.part, 1, HEAD_BYTES + NAME + #written)
end

-- Rows by name, in order, as they are stored; a few hundred at a time: Lua's stack is bounded.
local function rows_of(names)
  local rows = {}
  for first = 1, #names, 500 do
    local some = redis.call('HMGET', base .. 'rows', unpack(names, first, math.min(first + 499, #names)))
    for _, row in ipairs(some) do
      rows[#rows + 1] = row
    end
  end
  return rows
end

-- The same, as the caller reads them: {rows, numbers of their classes, those classes}.
local function answer(names)
  local rows, met, found = rows_of(names), {}, {}
  for _, value in ipairs(rows) do
    local number = value and string.sub(value, HEAD_BYTES - 3, HEAD_BYTES)
    if number and not found[number] then
      found[number], met[#met + 1] = true, number
    end
  end
  local classes = {}
  for n, number in ipairs(met) do
    classes[n] = class_numbered(number)
  end
  return {rows, met, classes}
end
