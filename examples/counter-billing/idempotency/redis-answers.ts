import type { Redis } from 'ioredis'
import { type AnswerStore, type Begun, type Claim, keyMemoryMs, type StoredAnswer } from './answer-stores.ts'

const now = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
`

/** KEYS: the key. ARGV: fingerprint, owner, lease and memory in milliseconds. */
const begin = `${now}
local known = redis.call('HMGET', KEYS[1], 'fingerprint', 'status', 'body', 'lease', 'since')
if not known[1] then
  redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'owner', ARGV[2], 'lease', now + ARGV[3], 'since', now)
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  return {'yours', 0}
end
if known[1] ~= ARGV[1] then return {'other'} end
if known[2] then return {'answered', known[2], known[3]} end
if tonumber(known[4]) > now then return {'underWay', known[4] - now} end
redis.call('HSET', KEYS[1], 'owner', ARGV[2], 'lease', now + ARGV[3])
return {'yours', now - known[5]}
`

/** KEYS: the key. ARGV: owner, then fields and values to set. */
const change = `
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return 1
`

/** Keys in Redis, by the clock of Redis: they are as safe as what it keeps. */
export class RedisAnswers implements AnswerStore {
  readonly name = 'answers'
  readonly title = 'Redis'
  readonly #redis: Redis

  constructor(redis: Redis) {
    this.#redis = redis
  }

  async begin(id: string, { fingerprint, owner, leaseMs }: Claim): Promise<Begun> {
    const answer = await this.#redis.eval(begin, 1, nameOf(id), fingerprint, owner, leaseMs, keyMemoryMs)
    const [state, first, second] = answer as [Begun['state'], unknown?, unknown?]
    if (state === 'yours') return { state, ageMs: Number(first) }
    if (state === 'underWay') return { state, leftMs: Number(first) }
    if (state === 'answered') return { state, answer: { status: Number(first), body: JSON.parse(String(second)) } }
    return { state }
  }

  async finish(id: string, owner: string, { status, body }: StoredAnswer): Promise<void> {
    await this.#redis.eval(change, 1, nameOf(id), owner, 'status', status, 'body', JSON.stringify(body))
  }

  async release(id: string, owner: string): Promise<void> {
    await this.#redis.eval(change, 1, nameOf(id), owner, 'lease', 0)
  }

  /** The connection is somebody else's. */
  async close(): Promise<void> {}
}

function nameOf(id: string): string {
  return `counters:answers:${id}`
}
