-- Give up on what has waited too long: at most `limit` interactions and `limit` feedbacks.
--
-- ARGV: now_ms, limit, remember_ms. Answers how many were given up.
local now, limit, remember = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local function due(index)
  return redis.call('ZRANGEBYSCORE', base .. index, '-inf', now, 'LIMIT', 0, limit)
end

local waiting = due('w')
for _, member in ipairs(waiting) do
  local task, id = string.match(member, '^([^|]*)|(.*)$')
  local key = base .. 'i:' .. id
  redis.call('ZREM', base .. 'w', member)
  if redis.call('EXISTS', key) == 1 then -- remembered without its payload, so that it stays known
    redis.call('HSET', key, 's', 'E')
    redis.call('HDEL', key, 'y')
    redis.call('PEXPIRE', key, remember)
  end
  count(task, 'waiting', -1)
  count(task, 'expired', 1)
end

local pending = due('o')
for _, member in ipairs(pending) do
  local position, id = string.match(member, '^([^|]*)|(.*)$')
  local list = base .. 'p:' .. id
  redis.call('ZREM', base .. 'o', member)
  for _, item in ipairs(redis.call('LRANGE', list, 0, -1)) do
    if cmsgpack.unpack(item).position == position then
      redis.call('LREM', list, 1, item)
      break
    end
  end
  count('-', 'feedback_pending', -1)
  count('-', 'feedback_orphaned', 1)
end

write_counts()
return #waiting + #pending
