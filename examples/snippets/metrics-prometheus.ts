// One line makes metrics of everything: a batcher, a breaker for each host, a pool. Prometheus reads them from an endpoint.
import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import pg from 'pg'
import { Registry } from 'prom-client'
import { AsyncBatcher, BreakerRegistry } from 'spillway'
import { prometheus } from 'spillway/metrics'

const orders = new AsyncBatcher(async (ids: number[]) => ids.map((id) => (id < 0 ? new Error('no such order') : id)), {
  capacity: 100,
  overflow: 'drop-newest',
})
const hosts = new BreakerRegistry({ failureThreshold: 2, recoveryTimeoutMs: 60_000 })
const database = new pg.Pool()

const registry = new Registry()
const off = prometheus(registry, { orders, hosts, database })

const server = createServer(async (_request, response) => {
  response.setHeader('content-type', registry.contentType)
  response.end(await registry.metrics())
})
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
const scrape = async () => {
  const response = await fetch(`http://127.0.0.1:${(server.address() as AddressInfo).port}/metrics`)
  return (await response.text()).split('\n')
}

// 120 orders at once, of which 20 find no room; then a host that fails.
await Promise.allSettled(Array.from({ length: 120 }, (_, n) => orders.add(n === 7 ? -1 : n)))
const down = () => Promise.reject(new Error('down'))
for (let call = 0; call < 3; call++)
  await hosts
    .get('eu.example')
    .execute(down)
    .catch(() => undefined)

const lines = await scrape()
const items = lines.filter((line) => line.startsWith('spillway_batch_items_total'))
const open = lines.filter((line) => line.startsWith('spillway_breaker_state') && line.endsWith(' 1'))
const connections = lines.filter((line) => line.startsWith('db_client_connection_count'))
console.log([...items, ...open, ...connections].join('\n'))
assert.ok(items.includes('spillway_batch_items_total{component="orders",outcome="succeeded"} 99'))
assert.ok(items.includes('spillway_batch_items_total{component="orders",outcome="failed"} 1'))
assert.ok(items.includes('spillway_batch_items_total{component="orders",outcome="dropped"} 20'))
assert.deepEqual(open, ['spillway_breaker_state{component="hosts",state="open",target="eu.example"} 1'])
assert.equal(connections.length, 2)

off()
assert.deepEqual(await scrape(), ['', ''])
await orders.close()
await database.end()
server.close()
