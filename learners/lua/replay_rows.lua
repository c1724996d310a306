-- Read a piece of the train part in order of arrival.
--
-- ARGV: arrival after which to start, how many rows at most. Answers {arrival of the last one, what
-- `answer` gives}, or nothing when there is none.
local after, most, names, last = tonumber(ARGV[1]), tonumber(ARGV[2]), {}, nil
for _, page in ipairs(pages_of('t')) do
  if PAGE * (page + 1) > after and #names < most then
    local entries = redis.call('HGET', base .. 'order:t', page)
    for first = 1, #entries, ENTRY do
      local arrival = PAGE * page + string.byte(entries, first)
      if arrival > after and #names < most then
        names[#names + 1], last = string.sub(entries, first + 1, first + NAME), arrival
      end
    end
  end
end
if #names == 0 then
  return {}
end
return {string.format('%.0f', last), answer(names)}
