-- Apply arrivals of one shard in order, atomically.
--
-- ARGV: now_ms, ttl_ms, remember_ms, MessagePack array of arrivals, then one payload an arrival
--   {'i', index, id, position, at, task, kind, user, label or '', consent}   payload: interaction
--   {'f', index, id, position, at, verb, {kind: label}}                       payload: raw feedback
-- Answers: flat outcomes
--   {index, status, counted, id, position, task, ''}
--   {index, status, counted, id, position, task, 'x', revision, label, previous, at, user, payload}
--   {index, status, counted, id, position, task, 'd', raw}
local now, ttl, remember = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local PENDING_OF_AN_ID = 16 -- feedback that may wait for one unknown interaction
local LAST_REVISION = 1000  -- the contract's limit

local outcomes = {}

local function tell(index, status, counted, id, position, task, ...)
  outcomes[#outcomes + 1] = {index, status, counted, id, position, task, ...}
end

local function tell_example(index, status, counted, id, task, user, payload, example)
  tell(index, status, counted, id, example.by, task, 'x', tostring(example.revision),
    example.label, example.previous, example.at, user, payload)
end

-- Put a label into effect: the example is kept until it is confirmed, so that a redelivery of the
-- record that completed it gives it again, byte for byte.
local function put_label(index, status, key, known, id, by, label, at)
  known.r = known.r + 1
  local example = {by = by, revision = known.r, label = label, previous = known.l, at = at}
  redis.call('HSET', key, 's', 'J', 'l', label, 'r', known.r,
    'x:' .. known.r, cmsgpack.pack(example))
  known.s, known.l = 'J', label
  tell_example(index, status, 1, id, known.t, known.u, known.y, example)
end

local function join(key, known, id)
  if known.s == 'W' then
    redis.call('ZREM', base .. 'w', known.t .. '|' .. id)
    redis.call('PEXPIRE', key, remember)
    count(known.t, 'waiting', -1)
    count(known.t, 'joined', 1)
  end
end

-- What a feedback does to an interaction that is known. Answers the feedback's own fate.
--   by: position of the record that brought the two together
local function take_feedback(index, key, known, id, feedback, by, raw)
  local label = feedback.labels[known.k]
  local fate
  if known.s == 'R' then
    fate = 'refused'
  elseif known.s == 'E' then
    fate = 'late'
  elseif not label then
    fate = (feedback.verb == 'label' or feedback.verb == 'correction') and 'mismatched' or 'unused'
  elseif known.s == 'W' then
    fate = 'joined'
  elseif known.l == label then
    fate = 'repeated'
  elseif feedback.verb == 'correction' and known.r < LAST_REVISION then
    fate = 'corrected'
  else
    fate = 'contradicted'
  end
  count(known.t, 'feedback', 1)
  count(known.t, 'feedback_' .. fate, 1)
  if fate == 'joined' or fate == 'corrected' then
    join(key, known, id)
    put_label(index, fate, key, known, id, by, label, feedback.at)
  elseif fate == 'mismatched' then
    redis.call('HSET', key, 'd:' .. feedback.position, cmsgpack.pack({by = by, raw = raw}))
    tell(index, fate, 1, id, feedback.position, known.t, 'd', raw)
  end
  return fate
end

local function as_known(flat)
  local known = {}
  for n = 1, #flat, 2 do
    known[flat[n]] = flat[n + 1]
  end
  known.r, known.y, known.l = tonumber(known.r), known.y or '', known.l or ''
  return known
end

-- Give again what this position completed and nobody has confirmed. Answers how many examples and
-- how many mismatches that were.
local function give_again(index, known, id, position)
  local revisions, mismatches = {}, 0
  for field, value in pairs(known) do
    local part = string.sub(field, 1, 2)
    if part == 'x:' or part == 'd:' then
      local kept = cmsgpack.unpack(value)
      if kept.by == position then
        if part == 'x:' then
          revisions[#revisions + 1] = kept
        else
          mismatches = mismatches + 1
          tell(index, 'mismatched', 0, id, string.sub(field, 3), known.t, 'd', kept.raw)
        end
      end
    end
  end
  table.sort(revisions, function(a, b) return a.revision < b.revision end)
  for _, example in ipairs(revisions) do
    local status = example.revision == 1 and 'joined' or 'corrected'
    tell_example(index, status, 0, id, known.t, known.u, known.y, example)
  end
  return #revisions, mismatches
end

local STATES = {W = 'waiting', J = 'joined', E = 'expired', R = 'refused'}

-- Feedback that was there first acts now, in the order it came.
local function release_pending(index, key, known, id, by)
  local items = redis.call('LRANGE', base .. 'p:' .. id, 0, -1)
  if #items == 0 then
    return
  end
  redis.call('DEL', base .. 'p:' .. id)
  for _, item in ipairs(items) do
    local feedback = cmsgpack.unpack(item)
    redis.call('ZREM', base .. 'o', feedback.position .. '|' .. id)
    count('-', 'feedback', -1)
    count('-', 'feedback_pending', -1)
    take_feedback(index, key, known, id, feedback, by, feedback.raw)
  end
end

local function interaction(arrival, payload)
  local _, index, id, position, at, task, kind, user, label, consent = unpack(arrival)
  local key = base .. 'i:' .. id
  local was = redis.call('HMGET', key, 's', 'p', 't')
  if was[1] and was[2] == position then -- redelivered: the same outcome, counted before
    local known = as_known(redis.call('HGETALL', key))
    if give_again(index, known, id, position) == 0 then
      tell(index, STATES[known.s], 0, id, position, known.t, '')
    end
    return
  end
  if was[1] then -- another record with a known id
    local new = redis.call('SET', base .. 'm:' .. position .. '|' .. id, 'repeated',
      'PX', remember, 'NX')
    if new then
      count(was[3], 'repeated', 1)
    end
    tell(index, 'repeated', new and 1 or 0, id, position, was[3], '')
    return
  end
  count(task, 'interactions', 1)
  local known = {s = 'W', t = task, k = kind, u = user, y = payload, l = '', r = 0}
  if not consent then
    known.s, known.y = 'R', ''
    count(task, 'refused', 1)
  end
  redis.call('HSET', key, 's', known.s, 'p', position, 't', task, 'k', kind, 'u', user,
    'y', known.y, 'r', 0)
  if known.s == 'W' then
    redis.call('PEXPIRE', key, ttl + remember)
    count(task, 'waiting', 1)
    redis.call('ZADD', base .. 'w', now + ttl, task .. '|' .. id)
    if label ~= '' then
      join(key, known, id)
      put_label(index, 'joined', key, known, id, position, label, at)
    end
  else
    redis.call('PEXPIRE', key, remember)
  end
  release_pending(index, key, known, id, position)
  if known.s ~= 'J' then
    -- Mismatches may stand before it; the interaction's own outcome is told all the same.
    tell(index, STATES[known.s], 1, id, position, task, '')
  end
end

local function feedback(arrival, raw)
  local _, index, id, position, at, verb, labels = unpack(arrival)
  local key = base .. 'i:' .. id
  local marker = base .. 'm:' .. position .. '|' .. id
  local state = redis.call('HMGET', key, 's', 't', 'k', 'u', 'y', 'l', 'r')
  local before = redis.call('GET', marker)
  if before then -- redelivered: counted before
    local known = state[1] and as_known(redis.call('HGETALL', key))
    local examples, mismatches = 0, 0
    if known then
      examples, mismatches = give_again(index, known, id, position)
    end
    if examples + mismatches == 0 then
      tell(index, before, 0, id, position, known and known.t or '-', '')
    end
    return
  end
  local item = {position = position, verb = verb, labels = labels, at = at}
  local fate
  if state[1] then
    local known = {s = state[1], t = state[2], k = state[3], u = state[4], y = state[5] or '',
      l = state[6] or '', r = tonumber(state[7])}
    local told = #outcomes
    fate = take_feedback(index, key, known, id, item, position, raw)
    if #outcomes == told then
      tell(index, fate, 1, id, position, known.t, '')
    end
  else
    local list = base .. 'p:' .. id
    fate = redis.call('LLEN', list) < PENDING_OF_AN_ID and 'pending' or 'orphaned'
    if fate == 'pending' then
      item.raw = raw
      redis.call('RPUSH', list, cmsgpack.pack(item))
      redis.call('PEXPIRE', list, ttl + remember)
      redis.call('ZADD', base .. 'o', now + ttl, position .. '|' .. id)
    end
    count('-', 'feedback', 1)
    count('-', 'feedback_' .. fate, 1)
    tell(index, fate, 1, id, position, '-', '')
  end
  redis.call('SET', marker, fate, 'PX', ttl + remember)
end

for n, arrival in ipairs(cmsgpack.unpack(ARGV[4])) do
  if arrival[1] == 'i' then
    interaction(arrival, ARGV[4 + n])
  else
    feedback(arrival, ARGV[4 + n])
  end
end
write_counts()
return outcomes
