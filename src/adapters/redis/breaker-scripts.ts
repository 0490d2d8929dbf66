import { epochPrefix } from './breaker-news.js'
import { RedisScript } from './redis-script.js'

/**
 * The first element of an answer; the second is always Redis' time in microseconds.
 *
 * - `'published'`: it is the circuit's latest news, the third element.
 * - `'joined'`: the circuit was open already by news that the caller didn't know of, the third element.
 * - `'outdated'`: there is news that the caller didn't know of, the third element, and what it said no longer holds.
 * - `'leased'`; `'denied'`: the third element is how long all leases are taken, in milliseconds.
 * - `'late'`: the call came after its deadline, out of some queue, and did nothing.
 */
export type Verdict = 'published' | 'joined' | 'outdated' | 'leased' | 'denied' | 'late'

/**
 * Beginning of those that change something. ARGV[1] is the deadline by Redis' clock, in microseconds: what a client had queued
 * while it had no connection must not open a circuit minutes later.
 */
const preamble = `
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function text(number) return string.format('%.0f', number) end
if now > tonumber(ARGV[1]) then return { 'late', text(now) } end
local latest = redis.call('GET', KEYS[1])
local function epochOf(news) return tonumber(string.match(news, '^${epochPrefix}(%d+)')) or 0 end
local last = latest and epochOf(latest) or 0
`

/** Makes the news the latest, ends all leases, and tells everyone. ARGV: 2 known, 3 channel, 4 time to live, 5 the news. */
const publish = `
local epoch = math.max(now, last + 1, tonumber(ARGV[2]) + 1)
local news = '${epochPrefix}' .. text(epoch) .. ARGV[5]
redis.call('SET', KEYS[1], news, 'PX', ARGV[4])
redis.call('DEL', KEYS[2])
redis.call('PUBLISH', ARGV[3], news)
return { 'published', text(now), news }
`

/**
 * Opens a circuit. A trip that didn't know of the present opening joins it: what trips at once in many processes is one opening, and
 * one message.
 *
 * KEYS: latest news, leases. ARGV: 1 deadline, 2 the latest epoch that the caller knows, 3 channel, 4 for how long to
 * remember it, 5 the news without its epoch.
 */
export const publishOpened: RedisScript = new RedisScript(`${preamble}
if last > tonumber(ARGV[2]) then
  local forMs = string.find(latest, '"kind":"opened"', 1, true) and string.match(latest, '"forMs":([%d.]+)')
  if forMs and now < last + forMs * 1000 then return { 'joined', text(now), latest } end
end
${publish}`)

/**
 * Closes a circuit, unless it was opened or closed again since.
 *
 * KEYS, ARGV: as above, and 6 the epoch of the opening that is over.
 */
export const publishClosed: RedisScript = new RedisScript(`${preamble}
if last > tonumber(ARGV[6]) then return { 'outdated', text(now), latest } end
${publish}`)

/**
 * Takes a lease, as long as there is one.
 *
 * KEYS: latest news, leases: a sorted set of tokens by the ends of their leases. ARGV: 1 deadline, 2 the latest epoch that the caller
 * knows, 3 how many leases there are, 4 token, 5 for how long, in milliseconds.
 */
export const takeLease: RedisScript = new RedisScript(`${preamble}
if last > tonumber(ARGV[2]) then return { 'outdated', text(now), latest } end
local nowMs = math.floor(now / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', text(nowMs))
if redis.call('ZCARD', KEYS[2]) < tonumber(ARGV[3]) then
  redis.call('ZADD', KEYS[2], text(nowMs + ARGV[5]), ARGV[4])
  if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[5]) then redis.call('PEXPIRE', KEYS[2], ARGV[5]) end
  return { 'leased', text(now) }
end
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
return { 'denied', text(now), text(first[2] - nowMs) }
`)

/** Gives leases back, and says so. KEYS: leases. ARGV: channel, message, then tokens. */
export const giveBack: RedisScript = new RedisScript(`
local given = redis.call('ZREM', KEYS[1], unpack(ARGV, 3))
if given > 0 then redis.call('PUBLISH', ARGV[1], ARGV[2]) end
return given
`)

/** Reads the latest news of circuits: Redis' time, then one text each, empty where there is none. KEYS: the latest news of each. */
export const readNews: RedisScript = new RedisScript(`
local time = redis.call('TIME')
local answer = { string.format('%.0f', time[1] * 1000000 + time[2]) }
for i, key in ipairs(KEYS) do answer[i + 1] = redis.call('GET', key) or '' end
return answer
`)
