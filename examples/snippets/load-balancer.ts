// One of three servers begins to fail, another one leaves: callers notice neither.
import assert from 'node:assert/strict'
import { LoadBalancer } from 'spillway'

let list = ['a', 'b', 'c'].map((id) => ({ id, url: `http://${id}.internal` }))
let broken = ''
const served = new Map<string, number>()
const counted = new Map<string, number>()

/** Stands for a request to a server. */
async function request(id: string): Promise<string> {
  await new Promise((resolve) => setTimeout(resolve, 1))
  if (id === broken) throw new Error(`${id} is down`)
  served.set(id, (served.get(id) ?? 0) + 1)
  return `hello from ${id}`
}

const api = new LoadBalancer(async () => list, {
  name: 'api',
  algorithm: 'least_conn',
  ejection: { failureThreshold: 3, recoveryTimeoutMs: 1000 },
  onCounts: (counts) => {
    for (const [id, count] of counts) counted.set(id, (counted.get(id) ?? 0) + count)
  },
})
api.on('updated', ({ added, removed }) => console.log('list: added', added.length, 'removed', removed.length))
api.on('ejected', ({ instance, error }) => console.log('ejected:', instance.id, 'because', (error as Error).message))
api.on('readmitted', ({ instance }) => console.log('readmitted:', instance.id))
await api.start()

const call = (): Promise<string> => api.run(({ id }) => request(id), { attempts: 2 })
const states = (): string[] => api.instances().map(({ instance, state }) => `${instance.id} ${state}`)

broken = 'b'
for (let n = 0; n < 30; n++) assert.match(await call(), /^hello from [ac]$/)
console.log(states())
assert.deepEqual(states(), ['a healthy', 'b ejected', 'c healthy'])

broken = ''
await new Promise((resolve) => setTimeout(resolve, 1100))
await Promise.all(Array.from({ length: 9 }, call))
assert.deepEqual(states(), ['a healthy', 'b healthy', 'c healthy'])

list = list.filter(({ id }) => id !== 'a')
await api.refresh()
assert.deepEqual(states(), ['b healthy', 'c healthy'])
await call()

await api.close()
const { offered, succeeded, failed, retries } = api.stats()
console.log({ offered, succeeded, failed, retries, served, counted })
assert.deepEqual({ offered: 43, succeeded: 40, failed: 3, retries: 3 }, { offered, succeeded, failed, retries })
assert.equal(
  [...counted.values()].reduce((sum, count) => sum + count),
  offered,
)
