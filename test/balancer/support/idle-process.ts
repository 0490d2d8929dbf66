// A process that uses balancers, closes none of them, and has nothing more to do.
import { LoadBalancer } from 'spillway'

const list = [{ id: 'a' }, { id: 'b' }]

const polled = new LoadBalancer(async () => list, {
  refreshMs: 60_000,
  health: { check: () => true, intervalMs: 60_000 },
  ejection: { failureThreshold: 1, recoveryTimeoutMs: 60_000 },
  slowStartMs: 60_000,
})
await polled.start()
polled.pick().release('failure')

const watched = new LoadBalancer<{ id: string }>({ watch: (onList) => onList(list) })
await watched.start()
watched.pick().release()

const counted = new LoadBalancer(list, {
  countsEveryMs: 50,
  onCounts: (counts) => console.log('counted', [...counts]),
})
counted.pick().release()
console.log('done')
