// Publishes usage until it is killed, and writes down what it tries and what Redis is said to have: a line's first letter says which.
import { openSync, writeSync } from 'node:fs'
import { Redis } from 'ioredis'
import { RedisUsageStream } from 'spillway/redis'
import { seededRandom } from 'spillway/testing'

const [url, prefix, shards, seed, file] = process.argv.slice(2) as [string, string, string, string, string]
const random = seededRandom(seed)
const notes = openSync(file, 'a')
const client = new Redis(url)
client.on('error', () => undefined)
const stream = new RedisUsageStream(client, { prefix, shards: Number(shards), timeoutMs: 2000 })

for (let n = 0; ; ) {
  const events = Array.from({ length: 1 + Math.floor(random() * 20) }, () => ({
    userId: `u${Math.floor(random() * 20)}`,
    quotaType: random() < 0.5 ? 'calls' : 'tokens',
    value: 1 + Math.floor(random() * 9),
    requestId: `${seed}/${n++}`,
  }))
  // The kernel has it, whatever becomes of this process.
  writeSync(notes, events.map(({ requestId }) => `tried ${requestId}\n`).join(''))
  const publishing = events.map(async (event) => {
    await stream.publish(event)
    writeSync(notes, `kept ${event.requestId}\n`)
  })
  if (random() < 0.7) await Promise.all(publishing)
  else await new Promise((resolve) => setTimeout(resolve, random() * 5))
}
