import { RedisScript } from './redis-script.js'

/**
 * Takes a lock, unless another owner has it. Whoever has it already is the caller of an earlier attempt whose answer was lost: it
 * gets the same token, and its time anew, unless it has more by now: a client may send a call again that was answered long ago.
 *
 * KEYS: the lock, its latest token. ARGV: 1 owner, 2 time to live, 3 how long the token is remembered, in milliseconds.
 * Answers `{ 'taken', token }` or `{ 'held', for how long still in milliseconds }`.
 */
export const takeLock: RedisScript = new RedisScript(`
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return { 'held', tostring(redis.call('PTTL', KEYS[1])) } end
local token = redis.call('GET', KEYS[2])
if owner and token and redis.call('PTTL', KEYS[1]) >= tonumber(ARGV[2]) then return { 'taken', token } end
if not owner or not token then
  local time = redis.call('TIME')
  token = string.format('%.0f', math.max((tonumber(token) or 0) + 1, time[1] * 1000000 + time[2]))
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SET', KEYS[2], token, 'PX', ARGV[3])
return { 'taken', token }
`)

/**
 * Lets a lease last for so long from now, or as long as it does anyway: never shorter, so that a call that comes late does no harm.
 *
 * KEYS, ARGV: as above. Answers 1, or 0 where the lock is gone or another owner's.
 */
export const extendLock: RedisScript = new RedisScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[2], ARGV[3]) end
return 1
`)

/** Gives a lock back. KEYS: the lock. ARGV: owner. Answers 1, or 0 where it is gone or another owner's. */
export const releaseLock: RedisScript = new RedisScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
return 1
`)

/** The keys of a lock: of any name, in one slot. */
export function lockKeys(prefix: string, name: string): readonly [lock: string, token: string] {
  const base = `{${prefix}:${name.replace(/[%{}]/g, encodeURIComponent)}}`
  return [`${base}:owner`, `${base}:token`]
}
