-- Read a piece of the train part in order of arrival.
--
-- ARGV: arrival after which to start, how many rows at most. Answers {arrival of the last one, rows},
-- or nothing when there is none.
local flat = redis.call('ZRANGEBYSCORE', base .. 'order', '(' .. ARGV[1], '+inf', 'WITHSCORES',
  'LIMIT', 0, ARGV[2])
if #flat == 0 then
  return {}
end
local ids = {}
for n = 1, #flat, 2 do
  ids[#ids + 1] = flat[n]
end
return {flat[#flat], rows_of(ids)}
