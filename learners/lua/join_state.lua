-- State of one shard of the label join. Put before the scripts that change it.
--
-- KEYS[1] is the start of every key of the shard; its hash tag keeps them in one cluster slot.
--   i:<id>   hash: s state (W waiting, J joined, E expired, R refused), p position, t task, k kind,
--            u user, y payload, l label in effect, r its revision;
--            x:<revision> an example not yet confirmed, d:<position> a mismatch not yet confirmed
--   p:<id>   list: feedback of an interaction not yet known, oldest first
--   m:<...>  marker: this record has been counted, and how
--   w        sorted set: "<task>|<id>" of every waiting interaction by deadline
--   o        sorted set: "<position>|<id>" of every pending feedback by deadline
--   n        hash: "<task>|<counter>" to its exact value
local base = KEYS[1]

-- Counters of this call, written once at its end: a script runs alone, so nobody sees them late.
local counts = {}

local function count(task, name, by)
  local field = task .. '|' .. name
  counts[field] = (counts[field] or 0) + by
end

local function write_counts()
  for field, by in pairs(counts) do
    if by ~= 0 then
      redis.call('HINCRBY', base .. 'n', field, by)
    end
  end
end
