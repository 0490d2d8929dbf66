import { RedisScript } from './redis-script.js'
import { firstField } from './usage-stream-entry.js'

/**
 * Trims a stream below the first entry that some group still needs: its lowest pending one, or else what follows the last that it was
 * delivered. A stream without groups is left alone: whoever will read it hasn't come yet. Exactly, not approximately: what stays
 * behind would count towards `maxLength`.
 */
const trimming = `
local function less(a, b)
  if not b then return true end
  local aMs, aSeq = string.match(a, '(%d+)-(%d+)')
  local bMs, bSeq = string.match(b, '(%d+)-(%d+)')
  if aMs ~= bMs then return #aMs < #bMs or (#aMs == #bMs and aMs < bMs) end
  return #aSeq < #bSeq or (#aSeq == #bSeq and aSeq < bSeq)
end
local function following(id)
  local ms, seq = string.match(id, '(%d+)-(%d+)')
  if tonumber(seq) >= 9007199254740991 then return id end
  return ms .. '-' .. string.format('%.0f', seq + 1)
end
local function groupsOf(key)
  local groups = {}
  if redis.call('EXISTS', key) == 0 then return groups end
  for i, flat in ipairs(redis.call('XINFO', 'GROUPS', key)) do
    groups[i] = {}
    for j = 1, #flat, 2 do groups[i][flat[j]] = flat[j + 1] end
  end
  return groups
end
local function trim(key)
  local lowest
  for _, group in ipairs(groupsOf(key)) do
    local needed = following(group['last-delivered-id'])
    if group.pending > 0 then needed = redis.call('XPENDING', key, group.name)[2] end
    if less(needed, lowest) then lowest = needed end
  end
  if not lowest then return 0 end
  return redis.call('XTRIM', key, 'MINID', '=', lowest)
end
`

/** Hands a list of any length to a command in parts: Lua can't unpack more than some thousands. */
const inParts = `
local function inParts(list, from, act)
  for i = from, #list, 1000 do act(unpack(list, i, math.min(i + 999, #list))) end
end
`

/**
 * Appends a batch, once: `{ 'appended' | 'repeated' | 'full', length }`. What a repeated batch had is the third element.
 *
 * KEYS: the stream, the mark of this batch. ARGV: for how many milliseconds to remember the batch, how long the stream may be (0 is any
 * length), the field, then each entry's text.
 */
export const appendBatch: RedisScript = new RedisScript(`${trimming}
local key = KEYS[1]
local known = redis.call('GET', KEYS[2])
if known then return { 'repeated', redis.call('XLEN', key), known } end
local most = tonumber(ARGV[2])
if most > 0 and redis.call('XLEN', key) >= most then
  trim(key)
  local length = redis.call('XLEN', key)
  if length >= most then return { 'full', length } end
end
local field = ARGV[3]
for i = 4, #ARGV do redis.call('XADD', key, '*', field, ARGV[i]) end
redis.call('SET', KEYS[2], #ARGV - 3, 'PX', ARGV[1])
return { 'appended', redis.call('XLEN', key) }
`)

/** Makes a group that reads from the start, unless it is there: 1 if it was made. KEYS: the stream. ARGV: the group. */
export const ensureGroup: RedisScript = new RedisScript(`
-- Asked first, since a server without memory makes no group, and yet may have one.
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if not groups.err then
  for _, group in ipairs(groups) do
    if group[2] == ARGV[1] then return 0 end
  end
end
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
if not made.err then return 1 end
if string.find(made.err, 'BUSYGROUP', 1, true) then return 0 end
return made
`)

/**
 * Delivers what nobody was delivered yet: `{ groups made, length, { { id, 0, fields, '' } … } }`. A group that is gone, with
 * the data or without, is made again and reads from the start.
 *
 * KEYS: the stream. ARGV: group, consumer, how many.
 */
export const readNew: RedisScript = new RedisScript(`
local key, group, consumer, count = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local function read() return redis.pcall('XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, 'STREAMS', key, '>') end
local answer = read()
local made = 0
if answer and answer.err and string.find(answer.err, 'NOGROUP', 1, true) then
  redis.call('XGROUP', 'CREATE', key, group, '0', 'MKSTREAM')
  made = 1
  answer = read()
end
if answer and answer.err then return answer end
local entries = {}
if answer then
  for i, entry in ipairs(answer[1][2]) do entries[i] = { entry[1], 0, entry[2], '' } end
end
return { made, redis.call('XLEN', key), entries }
`)

/**
 * Takes over what was delivered and not done: what others have let lie for so long or, with `-1`, all that is this consumer's own. It
 * is what XAUTOCLAIM does, but tells how often each was delivered before and whose it was, passes over what the caller has in hand, leaves
 * the count of those alone that were delivered often, and forgets what somebody has deleted, which Redis 6.2 would keep for ever. Answers
 * `{ forgotten, { { id, deliveries before, fields, whose } … } }`.
 *
 * KEYS: the stream. ARGV: group, consumer, how many, for how many milliseconds it has lain or `-1`, what is often, then the ids in hand.
 */
export const claimPending: RedisScript = new RedisScript(`
local key, group, consumer, count, idleMs = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local held = {}
for i = 6, #ARGV do held[ARGV[i]] = true end
local most = count + #ARGV - 5
local pending
if idleMs == '-1' then
  pending = redis.pcall('XPENDING', key, group, '-', '+', most, consumer)
else
  pending = redis.pcall('XPENDING', key, group, 'IDLE', idleMs, '-', '+', most)
end
if pending.err then
  if string.find(pending.err, 'NOGROUP', 1, true) then return { 0, {} } end
  return pending
end
local entries = {}
local forgotten = 0
for _, found in ipairs(pending) do
  local id, whose, before = found[1], found[2], found[4]
  if #entries < count and not held[id] then
    local deliveries = before
    if before < tonumber(ARGV[5]) then deliveries = before + 1 end
    -- Whatever its idleness: that was just asked for, and a clock set back since would make what is there look deleted.
    local entry = redis.call('XCLAIM', key, group, consumer, 0, id, 'RETRYCOUNT', deliveries)[1]
    if entry then
      entries[#entries + 1] = { id, before, entry[2], whose }
    else
      redis.call('XACK', key, group, id)
      forgotten = forgotten + 1
    end
  end
end
return { forgotten, entries }
`)

/**
 * Says of entries that are still this consumer's how long they have lain, and may count a delivery more or less; changes nothing of what
 * others have taken. Answers how many were still its own.
 *
 * KEYS: the stream. ARGV: group, consumer, milliseconds, how many deliveries more, then ids; without any, all of them.
 */
export const touchPending: RedisScript = new RedisScript(`${inParts}
local key, group, consumer, more = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[4])
local own = redis.pcall('XPENDING', key, group, '-', '+', 1000000, consumer)
if own.err then
  if string.find(own.err, 'NOGROUP', 1, true) then return 0 end
  return own
end
local wanted = #ARGV == 4
local ids = {}
for i = 5, #ARGV do ids[ARGV[i]] = true end
local counts = {}
local touched = 0
for _, found in ipairs(own) do
  if wanted or ids[found[1]] then
    local deliveries = math.max(0, found[4] + more)
    counts[deliveries] = counts[deliveries] or {}
    table.insert(counts[deliveries], found[1])
    touched = touched + 1
  end
end
for deliveries, list in pairs(counts) do
  inParts(list, 1, function(...)
    local command = { key, group, consumer, 0, ... }
    for _, word in ipairs({ 'IDLE', ARGV[3], 'RETRYCOUNT', deliveries, 'JUSTID' }) do table.insert(command, word) end
    redis.call('XCLAIM', unpack(command))
  end)
end
return touched
`)

/**
 * Ends what was done: acknowledges it, and moves what was refused to the dead letters in the same step. One that was acknowledged before,
 * by whomever, isn't moved again. Answers the ids of what was moved.
 *
 * KEYS: the stream, the dead letters. ARGV: group, how many ids, the ids, then for each dead letter id, reason, deliveries, the number
 * of its fields' texts, and those.
 */
export const settleEntries: RedisScript = new RedisScript(`${inParts}
local key, group = KEYS[1], ARGV[1]
local last = 2 + tonumber(ARGV[2])
-- Fails now, before anything is acknowledged, if what is there is no stream.
if #ARGV > last then redis.call('XLEN', KEYS[2]) end
local ids = {}
for i = 3, last do ids[i - 2] = ARGV[i] end
inParts(ids, 1, function(...) redis.call('XACK', key, group, ...) end)
local moved = {}
local i = last + 1
while i <= #ARGV do
  local id, reason, deliveries, size = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  if redis.call('XACK', key, group, id) == 1 then
    redis.call('XADD', KEYS[2], '*', 'entry', id, 'group', group, 'reason', reason, 'deliveries', deliveries,
      unpack(ARGV, i + 4, i + 3 + size))
    moved[#moved + 1] = id
  end
  i = i + 4 + size
end
return moved
`)

/**
 * Keeps house: removes consumers that have nothing pending and weren't heard of for long, and trims unless somebody has just done so.
 * Answers `{ removed, trimmed, length, pending, undelivered }`, the last of which is -1 where Redis doesn't know (before 7.0 it never does).
 *
 * KEYS: the stream, the lease for trimming. ARGV: group, consumer, for how many milliseconds, how often to trim, or 0 to do it anyway.
 */
export const keepHouse: RedisScript = new RedisScript(`${trimming}
local key, group = KEYS[1], ARGV[1]
local consumers = redis.pcall('XINFO', 'CONSUMERS', key, group)
if consumers.err then return { 0, 0, redis.call('XLEN', key), 0, 0 } end
local removed = 0
for _, flat in ipairs(consumers) do
  local consumer = {}
  for j = 1, #flat, 2 do consumer[flat[j]] = flat[j + 1] end
  if consumer.name ~= ARGV[2] and consumer.pending == 0 and consumer.idle > tonumber(ARGV[3]) then
    redis.call('XGROUP', 'DELCONSUMER', key, group, consumer.name)
    removed = removed + 1
  end
end
local trimmed = 0
-- What fails for want of memory is no reason not to trim: that is where memory comes from.
if ARGV[4] == '0' or redis.pcall('SET', KEYS[2], '1', 'NX', 'PX', ARGV[4]) then trimmed = trim(key) end
for _, found in ipairs(groupsOf(key)) do
  if found.name == group then
    return { removed, trimmed, redis.call('XLEN', key), found.pending, found.lag or -1 }
  end
end
return { removed, trimmed, redis.call('XLEN', key), 0, 0 }
`)

/** Removes a consumer that has nothing pending: 1 if it did. KEYS: the stream. ARGV: group, consumer. */
export const leaveGroup: RedisScript = new RedisScript(`
local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
if consumers.err then return 0 end
for _, flat in ipairs(consumers) do
  local consumer = {}
  for j = 1, #flat, 2 do consumer[flat[j]] = flat[j + 1] end
  if consumer.name == ARGV[2] and consumer.pending == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
    return 1
  end
end
return 0
`)

/** `{ length, dead letters, { { group, consumers, pending, undelivered } … } }`. KEYS: the stream, the dead letters. */
export const inspectStream: RedisScript = new RedisScript(`${trimming}
local groups = {}
for i, group in ipairs(groupsOf(KEYS[1])) do
  groups[i] = { group.name, group.consumers, group.pending, group.lag or -1 }
end
return { redis.call('XLEN', KEYS[1]), redis.call('XLEN', KEYS[2]), groups }
`)

/** Dead letters after one, oldest first, each `{ id, fields }`. KEYS: the dead letters. ARGV: after which, how many. */
export const readDead: RedisScript = new RedisScript(`
return redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])
`)

/**
 * Takes dead letters out, and with `1` appends what they had been to the stream again, together with the id of their first entry: an
 * event that says no id of its own is known by that. Answers how many were still there.
 *
 * KEYS: the dead letters, the stream. ARGV: `1` or `0`, then ids.
 */
export const takeDead: RedisScript = new RedisScript(`
local taken = 0
for i = 2, #ARGV do
  local found = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])[1]
  if found then
    local fields = found[2]
    if ARGV[1] == '1' and #fields > 8 then
      local known = false
      for j = 9, #fields, 2 do known = known or fields[j] == '${firstField}' end
      if not known then
        fields[#fields + 1] = '${firstField}'
        fields[#fields + 1] = fields[2]
      end
      redis.call('XADD', KEYS[2], '*', unpack(fields, 9))
    end
    redis.call('XDEL', KEYS[1], ARGV[i])
    taken = taken + 1
  end
end
return taken
`)
