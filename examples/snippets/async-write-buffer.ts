// Hot counters: thousands of increments, merged by key, become a few writes.
import assert from 'node:assert/strict'
import { AsyncWriteBuffer } from 'spillway'

const stored = new Map<string, number>()
let statements = 0

/** Stands for one `insert … on conflict do update` with all its rows. */
async function addToCounters(counts: ReadonlyMap<string, number>): Promise<void> {
  statements++
  for (const [key, delta] of counts) stored.set(key, (stored.get(key) ?? 0) + delta)
}

const likes = new AsyncWriteBuffer<string, number>(addToCounters, {
  name: 'likes',
  merge: (old, delta) => old + delta,
  maxWaitMs: 20,
})
// A batch that failed for good is in nobody's hands: log it, or put it somewhere safe.
likes.on('failed', ({ entries, error }) => console.error('lost', [...entries], error))

for (let request = 0; request < 10_000; request++) {
  const accepted = likes.put(`post:${request % 5}`, 1)
  assert.ok(accepted)
}
console.log('writes:', likes.stats().pending, 'keys:', likes.stats().pendingKeys)

const report = await likes.flush()
console.log('flushed:', report, 'statements:', statements)
assert.deepEqual(report, { succeeded: 10_000, failed: 0, dropped: 0 })
assert.equal(statements, 1)
assert.equal(stored.get('post:0'), 2000)

// Another merge, another meaning: the last value wins, as for "last seen" or a position on a map.
const lastSeen = new AsyncWriteBuffer<string, number>(
  async (seen) => {
    console.log('last seen:', [...seen])
    assert.deepEqual([...seen], [['ann', 1004]])
  },
  { merge: (_old, newest) => newest },
)
for (let ms = 1000; ms < 1005; ms++) lastSeen.put('ann', ms)

await lastSeen.close()
await likes.close()
