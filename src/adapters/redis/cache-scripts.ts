import { format, magic, serverBytes } from './cache-record.js'
import { RedisScript } from './redis-script.js'

/** The condition of a write that has none. Others are `=` and the version that must be there. */
export const unconditional = '*'

const clock = `
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function text(number) return string.format('%.0f', number) end
local function span(ms) return ms == '' and math.huge or tonumber(ms) * 1000 end
`

/**
 * An expiry that is further away than this isn't set: it is 3000 years, and Redis refuses what overflows its clock of 64 bits.
 * Redis also wants whole numbers, and at least 1.
 */
const expiring = `
local function put(key, value, us)
  if us < 1e17 then return redis.pcall('SET', key, value, 'PX', text(math.max(1, math.ceil(us / 1000)))) end
  return redis.pcall('SET', key, value)
end
`

/**
 * Writes records of one bucket, tombstones included. KEYS: where. ARGV: the fence in milliseconds; then for each key the condition, for how many
 * milliseconds it is kept (empty for ever, `-` for a tombstone), and what a record is beside what the server writes of it.
 *
 * It answers with the server's time, and for each key `+` and the version if it was written, `-` and the version that is there if it was
 * not, or `!` and an error. A value that Redis has no room for is deleted, if it was to be written whatever is there: an old value must not
 * outlive its successor. A tombstone takes the place of what it deletes: Redis asks for room only as long as a script has changed nothing.
 *
 * A version is the server's time in microseconds, or one more than the last one if that is more, so that none comes twice. What can't be
 * read has the hash of all of it. Of all else only the beginning is read.
 */
export const writeRecords: RedisScript = new RedisScript(`${clock}${expiring}
local keys, argv, pcall, sub, pack, unpack, max = KEYS, ARGV, redis.pcall, string.sub, struct.pack, struct.unpack, math.max
local function whole(number) return number >= 0 and number < 9007199254740992 and number % 1 == 0 end
local begin = '${magic}' .. string.char(${format})
local fence = span(argv[1])
local fresh = '+' .. text(now)
local answers = { text(now) }
local full
for n = 1, #keys do
  local key, condition, keeping = keys[n], argv[3 * n - 1], argv[3 * n]
  local any = condition == '${unconditional}'
  local old = pcall('GETRANGE', key, 0, ${serverBytes - 1})
  local there, version, fenced = '', 0, 0
  if type(old) == 'string' and old ~= '' then
    if #old == ${serverBytes} and sub(old, 1, 4) == begin then
      local v, w, f, check = unpack('<dddd', old, 5)
      if v + 2 * w - 3 * f == check and whole(v) and whole(w) and whole(f) then version, fenced = v, f end
    end
    if not any then
      there = version > 0 and text(version) or 'x' .. redis.sha1hex(redis.call('GET', key))
    end
  end
  if not any and condition ~= '=' .. there then
    answers[n + 1] = '-' .. there
  else
    local kept = keeping == '-' and 0 or span(keeping)
    if any then fenced = now + fence end
    local answer = fresh
    if version < now then version = now else
      version = version + 1
      answer = '+' .. text(version)
    end
    local record = begin .. pack('<dddd', version, now, fenced, version + 2 * now - 3 * fenced) .. argv[3 * n + 1]
    local done = full or put(key, record, max(kept, fenced - now))
    if done.err then
      if any then pcall('DEL', key) end
      if keeping == '-' then done = put(key, record, fence) else full = done end
      if done.err then answer = '!' .. done.err end
    end
    answers[n + 1] = answer
  end
end
return answers
`)

/** Reads records, where MGET might be sent to a replica. KEYS: which. It answers with what is there, as MGET does. */
export const readRecords: RedisScript = new RedisScript(`return redis.call('MGET', unpack(KEYS))`)

/** The server's time, in microseconds. KEYS: any key of that server. */
export const readTime: RedisScript = new RedisScript(`
local time = redis.call('TIME')
return string.format('%.0f', time[1] * 1000000 + time[2])
`)

/**
 * Reads marks of one bucket, makes those that are missing, and renews them if that is asked for. KEYS: where. ARGV: for how many
 * milliseconds they are kept (empty for ever), `1` to renew them, then for each the state that it gets if it gets one.
 *
 * It answers with two texts for each: its state, and how many microseconds ago it was renewed, which is empty for one that never was, or
 * `!` and an error. A mark that something else has taken the place of counts as renewed. A new state takes the place of the old one, so there
 * is room for it.
 */
export const touchMarks: RedisScript = new RedisScript(`${clock}${expiring}
local keep, renew = span(ARGV[1]), ARGV[2] == '1'
local answers = {}
for n, key in ipairs(KEYS) do
  local there = redis.pcall('GET', key)
  local state, renewed
  if type(there) == 'string' then state, renewed = string.match(there, '^swm1 (%S+) (%d+)$') end
  local ago
  if state and not renew then
    renewed = tonumber(renewed)
    if renewed == 0 then ago = '' else ago = text(math.max(0, now - renewed)) end
    local left = redis.call('PTTL', key)
    if keep >= 1e17 then
      if left >= 0 then redis.call('PERSIST', key) end
    elseif left >= 0 and left < keep / 2000 then
      redis.call('PEXPIRE', key, text(math.max(1, math.ceil(keep / 1000))))
    end
  else
    state = ARGV[n + 2]
    local known = renew or there
    ago = known and '0' or ''
    local value = 'swm1 ' .. state .. ' ' .. text(known and now or 0)
    local done = put(key, value, keep)
    if done.err and renew then
      redis.pcall('DEL', key)
      done = put(key, value, keep)
    end
    if done.err then ago = '!' .. done.err end
  end
  answers[2 * n - 1] = state
  answers[2 * n] = ago
end
return answers
`)
