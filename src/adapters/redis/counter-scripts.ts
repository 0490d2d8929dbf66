import { RedisScript } from './redis-script.js'

/** How an answer says that an increment would lead beyond what a number holds exactly. */
export const outOfRange = 'r'
/** How an answer says that the key holds something that is no counter. */
export const notCounter = 't'
/** How an answer says that Redis refused it in a way that it doesn't as a rule, when others of the batch were applied already. */
export const refusedOtherwise = 'o'

/**
 * Applies one batch to the counters of one bucket, once.
 *
 * KEYS: the list of ids, the answers of this id, then each increment's counter. ARGV: how many ids to remember, for how many
 * milliseconds, `1` when each value is wanted or `0` when only refusals are, then each increment's delta.
 *
 * It answers with one text, which is also what it keeps for the next time that the id comes: how many increments there were, then
 * either a value or refusal for each, or index and refusal of those refused, all parted by commas.
 *
 * INCRBY itself counts in 64 bits and refuses what overflows those; Lua sees doubles, which tell exactly whether a 64-bit value is
 * within 2^53 - 1. What is not is taken back by DECRBY, again in 64 bits. Lua prints 14 digits of a number by itself.
 */
export const applyBatch: RedisScript = new RedisScript(`
local known = redis.call('GET', KEYS[2])
if known then return known end
local pcall, format = redis.pcall, string.format
local max = 9007199254740991
local wanted = ARGV[3] == '1'
local count = #KEYS - 2
local answers = { count }
local last = 1
local applied = false
for i = 1, count do
  local key, delta = KEYS[i + 2], ARGV[i + 3]
  local value = pcall('INCRBY', key, delta)
  local refused = false
  if type(value) == 'number' then
    if value > max or value < -max then
      redis.call('DECRBY', key, delta)
      refused = '${outOfRange}'
    else
      applied = true
      if value >= 1e14 or value <= -1e14 then value = format('%.0f', value) end
    end
  else
    local text = value.err
    if string.find(text, 'overflow', 1, true) then
      refused = '${outOfRange}'
    elseif string.find(text, 'WRONGTYPE', 1, true) or string.find(text, 'not an integer', 1, true) then
      refused = '${notCounter}'
    elseif applied then
      refused = '${refusedOtherwise}'
    else
      return value
    end
  end
  if wanted then
    last = last + 1
    answers[last] = refused or value
  elseif refused then
    answers[last + 1] = i - 1
    answers[last + 2] = refused
    last = last + 2
  end
end
local packed = table.concat(answers, ',')
redis.call('SET', KEYS[2], packed, 'PX', ARGV[2])
local kept = redis.call('RPUSH', KEYS[1], KEYS[2]) - tonumber(ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
for _ = 1, math.min(kept, 3) do
  redis.pcall('DEL', redis.call('LPOP', KEYS[1]))
end
return packed
`)

/** Says how many buckets there are, for good: the first to come decides. KEYS: the layout. ARGV: the count. */
export const fixLayout: RedisScript = new RedisScript(`
local layout = redis.call('GET', KEYS[1])
if layout then return layout end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]
`)
