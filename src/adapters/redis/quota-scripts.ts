import { maxUsage } from '../../internal/usage.js'
import { RedisScript } from './redis-script.js'

/** How an answer says that a sum would pass what a number holds exactly. */
export const outOfRange = 'r'
/** How an answer says that a key holds something else than it should. */
export const notUsage = 't'
/** The answer of a call that has only cleared away some of what expired: there may be more of it, so make the call again. */
export const again = 'again'
/** How many expired holds a call looks at, so that none holds up its server when ten thousand of them expire together. */
const expiredPerCall = 200

/**
 * What all of these scripts keep to. They read all that they need before they write: a key of another type fails the call while
 * nothing has changed, and so does Redis when it takes no writes, since it says so at the first one. Numbers pass as texts of 17
 * digits, which tell every double from every other; Lua by itself prints 14. Redis' own clock is the only one.
 */
const numbers = `
local max = ${maxUsage}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function text(number) return string.format('%.17g', number) end
local function numberIn(key, field)
  local found = redis.call('HGET', key, field)
  if not found then return 0 end
  return assert(tonumber(found), key .. ' holds something that is no number')
end
`

/** Sets when a key of a period goes: some time after the period's end or after its latest change, whatever is later; or never. */
const keeping = `
local function keep(key, ends, forMs)
  if ends == '' or not forMs then
    redis.call('PERSIST', key)
  else
    redis.call('PEXPIREAT', key, text(math.max(tonumber(ends), now) + forMs))
  end
end
`

/**
 * Remembers ids for a time. What has passed its time goes as new ones come, at least as fast, and never so much at once that
 * others would have to wait; so does what is beyond the greatest number.
 */
const remembering = `
local function isKnown(key, id)
  local untilMs = redis.call('ZSCORE', key, id)
  return untilMs and tonumber(untilMs) > now
end
local function remember(key, ids, forMs, atMost)
  for _, id in ipairs(ids) do redis.call('ZADD', key, text(now + forMs), id) end
  local passed = redis.call('ZCOUNT', key, '-inf', text(now))
  local over = redis.call('ZCARD', key) - atMost
  local gone = math.min(math.max(passed, over), 2 * #ids + 10)
  if gone > 0 then redis.call('ZREMRANGEBYRANK', key, 0, gone - 1) end
  if redis.call('PTTL', key) < forMs then redis.call('PEXPIRE', key, text(forMs)) end
end
`

/**
 * The books of a user's holds: which there are, in a sorted set by their ends, whose members say for what and how much, and the count
 * and sum of each quota type and period, in a hash. `heldIn` tells what is held without what has expired; `drop` takes one out;
 * `save` writes what has changed. A sum of none is 0: fractions leave traces.
 *
 * Where `left` is 0, more may have expired than was looked at, and `heldIn` may tell too much. A script then does nothing but `clear`, and
 * answers that it wants to be called again.
 */
const holdings = `
local left = ${expiredPerCall}
local function booksOf(holds, held)
  local expired = redis.call('ZRANGEBYSCORE', holds, '-inf', text(now), 'LIMIT', 0, left)
  left = left - #expired
  local entries, books = {}, {}
  local function entryOf(field)
    local entry = entries[field]
    if not entry then
      local count, sum = string.match(redis.call('HGET', held, field) or '0 0', '^(%d+) (.+)$')
      entry = { count = assert(tonumber(count), held .. ' holds something else'), sum = tonumber(sum) }
      entries[field] = entry
    end
    return entry
  end
  function books.heldIn(field) return entryOf(field).sum end
  function books.add(field, value)
    local entry = entryOf(field)
    entry.count, entry.sum, entry.changed = entry.count + 1, entry.sum + value, true
  end
  function books.drop(member)
    local field, value = string.match(member, '^(.-%z.-)%z(.-)%z')
    local entry = entryOf(field)
    entry.count, entry.changed = entry.count - 1, true
    entry.sum = entry.count > 0 and math.max(entry.sum - tonumber(value), 0) or 0
  end
  function books.save()
    if #expired > 0 then redis.call('ZREMRANGEBYSCORE', holds, '-inf', text(now)) end
    for field, entry in pairs(entries) do
      if entry.changed and entry.count > 0 then
        redis.call('HSET', held, field, entry.count .. ' ' .. text(entry.sum))
      elseif entry.changed then
        redis.call('HDEL', held, field)
      end
    end
  end
  function books.clear()
    if #expired > 0 then redis.call('ZREMRANGEBYRANK', holds, 0, #expired - 1) end
    expired = {}
    books.save()
  end
  for _, member in ipairs(expired) do books.drop(member) end
  return books
end
`

/**
 * Counts a batch, or one user's part of it, once.
 *
 * KEYS: what the batch was answered, then what the totals and events name. ARGV: 1 how many totals and events there are, as one text, 2
 * for how long to remember the batch, 3 for how long to keep a past period, 4 for how long to remember an id, 5 how many of them at
 * the most, 6 the number of totals; for each total the place of its hash among KEYS, the quota type, the sum of what needs no id, the
 * period's end or nothing; for each event that may have been counted the number of its total, the place of its user's ids among
 * KEYS, its id, its value.
 *
 * It answers with one text, which is also what it keeps for the next time that the batch comes: ARGV[1], then for each refused total its
 * number, why, and the numbers of its events that weren't counted before: `3.2,2r0:2`.
 */
export const writeUsage: RedisScript = new RedisScript(`
local known = redis.call('GET', KEYS[1])
if known then return known end
${numbers}${keeping}${remembering}
local keepMs, memoryMs, atMost = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local totals, first = {}, 7
for i = 1, tonumber(ARGV[6]) do
  totals[i] = {
    key = KEYS[tonumber(ARGV[first])],
    field = ARGV[first + 1],
    sum = tonumber(ARGV[first + 2]),
    ends = ARGV[first + 3],
    fresh = {},
  }
  first = first + 4
end
for i = first, #ARGV, 4 do
  local total, ids = totals[tonumber(ARGV[i])], KEYS[tonumber(ARGV[i + 1])]
  local untilMs = redis.pcall('ZSCORE', ids, ARGV[i + 2])
  if type(untilMs) == 'table' then total.refused, untilMs = '${notUsage}', false end
  if not untilMs or tonumber(untilMs) <= now then
    total.sum = total.sum + tonumber(ARGV[i + 3])
    table.insert(total.fresh, (i - first) / 4)
  end
end
local answer = { ARGV[1] }
for i, total in ipairs(totals) do
  local found = redis.pcall('HGET', total.key, total.field)
  local used = 0
  if type(found) == 'table' then used = nil elseif found then used = tonumber(found) end
  if not used then
    total.refused = '${notUsage}'
  elseif used + total.sum > max then
    total.refused = total.refused or '${outOfRange}'
  else
    total.after = used + total.sum
  end
  if total.refused then table.insert(answer, i - 1 .. total.refused .. table.concat(total.fresh, ':')) end
end
local packed = table.concat(answer, ',')
redis.call('SET', KEYS[1], packed, 'PX', ARGV[2])
local counted = {}
for _, total in ipairs(totals) do
  if not total.refused and (total.sum > 0 or #total.fresh > 0) then
    redis.call('HSET', total.key, total.field, text(total.after))
    keep(total.key, total.ends, keepMs)
    for _, event in ipairs(total.fresh) do
      local at = first + 4 * event
      local ids = KEYS[tonumber(ARGV[at + 1])]
      counted[ids] = counted[ids] or {}
      table.insert(counted[ids], ARGV[at + 2])
    end
  end
end
for ids, list in pairs(counted) do remember(ids, list, memoryMs, atMost) end
return packed
`)

/**
 * Reads usage: for each key what is used, then what is held. It writes only where too much has expired. KEYS: what ARGV names. ARGV: for each key the places among KEYS of the
 * period's hash and of the user's holds, behind which comes what they hold, then the quota type and the field of what is held.
 */
export const readUsage: RedisScript = new RedisScript(`${numbers}${holdings}
local answer, books = {}, {}
for i = 1, #ARGV, 4 do
  local holds = tonumber(ARGV[i + 1])
  books[holds] = books[holds] or booksOf(KEYS[holds], KEYS[holds + 1])
  table.insert(answer, text(numberIn(KEYS[tonumber(ARGV[i])], ARGV[i + 2])))
  table.insert(answer, text(books[holds].heldIn(ARGV[i + 3])))
  if left == 0 then
    for _, read in pairs(books) do read.clear() end
    return '${again}'
  end
end
return answer
`)

/**
 * Beginning of those that are about one quota type of one user in one period. KEYS: 1 the hash of what is used, 2 the holds, 3 what they
 * hold together. ARGV: 1 the quota type, 2 the period, 3 its end or nothing, 4 for how long to keep it then.
 */
const accounts = `${numbers}${keeping}${holdings}
local books = booksOf(KEYS[2], KEYS[3])
local field = ARGV[1] .. '\\0' .. ARGV[2]
local used = numberIn(KEYS[1], ARGV[1])
local held = books.heldIn(field)
if left == 0 then
  books.clear()
  return '${again}'
end
local function use(value)
  if value == 0 then return end
  used = used + value
  redis.call('HSET', KEYS[1], ARGV[1], text(used))
  keep(KEYS[1], ARGV[3], tonumber(ARGV[4]))
end
`

/**
 * Counts a use if it fits: `{ status, used, held }`.
 *
 * KEYS: as above, 4 the ids. ARGV: as above, 5 the value, 6 what all may come to, 7 the id, 8 for how long to remember it, 9 how many of
 * them at the most.
 */
export const consumeUsage: RedisScript = new RedisScript(`${accounts}${remembering}
local value = tonumber(ARGV[5])
if isKnown(KEYS[4], ARGV[7]) then return { 'repeated', text(used), text(held) } end
if used + held + value > tonumber(ARGV[6]) then return { 'exceeded', text(used), text(held) } end
use(value)
remember(KEYS[4], { ARGV[7] }, tonumber(ARGV[8]), tonumber(ARGV[9]))
books.save()
return { 'applied', text(used), text(held) }
`)

/** A reservation as it is kept, and as a member of the holds. */
const reservations = `
local function read(key)
  local found = redis.call('HMGET', key, 'state', 'type', 'period', 'value', 'limit', 'until')
  if not found[1] then return nil end
  local hold = { state = found[1], type = found[2], period = found[3], value = found[4], limit = found[5] }
  hold.untilMs = tonumber(found[6])
  hold.live = hold.state == 'held' and hold.untilMs > now
  return hold
end
local function memberOf(hold, id) return table.concat({ hold.type, hold.period, hold.value, id }, '\\0') end
`

/**
 * Says whose a reservation's id is: the first to ask has it. Answers with the owner: user, quota type and period.
 *
 * KEYS: the owner. ARGV: 1 the user, 2 the quota type, 3 the period, 4 until when to remember it.
 */
export const claimId: RedisScript = new RedisScript(`${numbers}
local owner = redis.call('GET', KEYS[1])
if owner and string.match(owner, '^[^%z]*') ~= ARGV[1] then return owner end
local untilMs = math.max(now + redis.call('PTTL', KEYS[1]), tonumber(ARGV[4]))
owner = table.concat({ ARGV[1], ARGV[2], ARGV[3] }, '\\0')
redis.call('SET', KEYS[1], owner)
redis.call('PEXPIREAT', KEYS[1], text(untilMs))
return owner
`)

/** Says whose a reservation is. A script, since some clients let replicas answer a GET. KEYS: the owner. */
export const findOwner: RedisScript = new RedisScript(`return redis.call('GET', KEYS[1])`)

/**
 * Holds a value if it fits: `{ status, used, held, expiresAt }`.
 *
 * KEYS: as above, 4 the reservation, and where everything lies on one server 5 its owner. ARGV: as above, 5 the value, 6 what all may
 * come to, 7 the limit that settling minds, 8 the time to live, 9 for how long to remember it then, 10 its id, 11 the user.
 */
export const reserveUsage: RedisScript = new RedisScript(`${accounts}${reservations}
local value = tonumber(ARGV[5])
local function answer(status, untilMs) return { status, text(used), text(held), text(untilMs) } end
local owner = KEYS[5] and redis.call('GET', KEYS[5])
if owner and string.match(owner, '^[^%z]*') ~= ARGV[11] then return answer('conflict', 0) end
local known = read(KEYS[4])
if known then
  local same = known.type == ARGV[1] and known.period == ARGV[2] and tonumber(known.value) == value
  if same and known.live then return answer('repeated', known.untilMs) end
  return answer('conflict', 0)
end
if used + held + value > tonumber(ARGV[6]) then return answer('exceeded', 0) end
local hold = { type = ARGV[1], period = ARGV[2], value = ARGV[5] }
local untilMs = now + tonumber(ARGV[8])
local forgetAt = text(untilMs + tonumber(ARGV[9]))
redis.call('HSET', KEYS[4], 'state', 'held', 'type', hold.type, 'period', hold.period, 'value', hold.value,
  'limit', ARGV[7], 'until', text(untilMs))
redis.call('PEXPIREAT', KEYS[4], forgetAt)
if KEYS[5] then
  redis.call('SET', KEYS[5], table.concat({ ARGV[11], hold.type, hold.period }, '\\0'))
  redis.call('PEXPIREAT', KEYS[5], forgetAt)
end
redis.call('ZADD', KEYS[2], text(untilMs), memberOf(hold, ARGV[10]))
books.add(field, value)
books.save()
-- Both go with the hold that ends last, together.
local last = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
redis.call('PEXPIREAT', KEYS[2], text(tonumber(last)))
redis.call('PEXPIREAT', KEYS[3], text(tonumber(last)))
held = books.heldIn(field)
return answer('held', untilMs)
`)

/**
 * Turns a hold into a use: `{ status, used, held, value, limit }`, the last two as the reservation was made; `{ 'unknown' }`; or
 * `{ 'elsewhere', type, period }` where the reservation is one for another key than the caller thought.
 *
 * KEYS: as above, 4 the reservation. ARGV: as above, 5 its id, 6 the value. Room is made before anything is written that needs some:
 * settling goes on when Redis has no memory left for more.
 */
export const settleUsage: RedisScript = new RedisScript(`${accounts}${reservations}
local hold = read(KEYS[4])
if not hold then return { 'unknown' } end
if hold.type ~= ARGV[1] or hold.period ~= ARGV[2] then return { 'elsewhere', hold.type, hold.period } end
local function answer(status) return { status, text(used), text(held), hold.value, hold.limit } end
if hold.state == 'settled' then return answer('repeated') end
if hold.state == 'released' then return answer('released') end
local actual = tonumber(ARGV[6])
local beyond = hold.live and actual - tonumber(hold.value) or actual
local ceiling = math.min(tonumber(hold.limit) or max, max)
local fits = (hold.live and beyond <= 0) or used + held + beyond <= ceiling
if not fits or used + actual > max then return answer('exceeded') end
local member = memberOf(hold, ARGV[5])
if redis.call('ZREM', KEYS[2], member) == 1 and hold.live then books.drop(member) end
redis.call('HSET', KEYS[4], 'state', 'settled')
use(actual)
books.save()
held = books.heldIn(field)
return answer('settled')
`)

/**
 * Gives a hold back. KEYS: 1 the holds, 2 what they hold together, 3 the reservation. ARGV: 1 its id, 2 what becomes of it: `released`, or
 * `forgotten`, as if it had never been there.
 */
export const releaseHold: RedisScript = new RedisScript(`${numbers}${holdings}${reservations}
local hold = read(KEYS[3])
if not hold or hold.state ~= 'held' then return 0 end
local books = booksOf(KEYS[1], KEYS[2])
books.heldIn(hold.type .. '\\0' .. hold.period)
if left == 0 then
  books.clear()
  return '${again}'
end
local member = memberOf(hold, ARGV[1])
if redis.call('ZREM', KEYS[1], member) == 1 and hold.live then books.drop(member) end
if ARGV[2] == 'forgotten' then redis.call('DEL', KEYS[3]) else redis.call('HSET', KEYS[3], 'state', ARGV[2]) end
books.save()
return 1
`)
