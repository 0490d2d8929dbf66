import * as api from '@opentelemetry/api'
import { createPool } from 'generic-pool'
import pg from 'pg'
import { Registry, register } from 'prom-client'
import { AsyncBatcher, type BatchTracer, BreakerRegistry, MultiLevelCache } from 'spillway'
import { createHttpClient } from 'spillway/http'
import {
  batchTracer,
  type Components,
  instrument,
  type MetricsMeter,
  metricsCatalog,
  type PrometheusRegistry,
  prometheus,
} from 'spillway/metrics'
import { createPostgresPool } from 'spillway/postgres'
import { createRedisPool } from 'spillway/redis'
import * as undici from 'undici'

const tracer: BatchTracer = batchTracer(api, { kind: 'client', tracer: api.trace.getTracer('mine') })
batchTracer({ trace: api.trace, context: api.context })
const orders = new AsyncBatcher(async (ids: string[]) => ids, { tracer })

const components: Components = {
  orders,
  hosts: new BreakerRegistry(),
  users: new MultiLevelCache<string>(),
  api: createHttpClient(undici),
  agent: new undici.Agent(),
  database: createPostgresPool(pg),
  plain: new pg.Pool(),
  redis: createRedisPool(() => null as never),
  pool: createPool({ create: async () => 1, destroy: async () => undefined }),
}
const meter: MetricsMeter = api.metrics.getMeter('test')
const off: () => void = instrument(meter, components, { maxInstances: 10, eventLoop: false })
const registry: PrometheusRegistry = new Registry<typeof Registry.OPENMETRICS_CONTENT_TYPE>()
prometheus(registry, [orders], undefined)
prometheus(register, { orders })
const name: string | undefined = metricsCatalog().metrics[0]?.prometheusName
off()

// @ts-expect-error a registry has no name, so that it can't be in a list
prometheus(register, [new BreakerRegistry()])
// @ts-expect-error nothing to read
prometheus(register, { a: 1 })
// @ts-expect-error no such option
instrument(meter, { orders }, { maxSeries: 1 })
// @ts-expect-error no such kind
batchTracer(api, { kind: 'server' })
// @ts-expect-error that is a tracer, and not the API
batchTracer(api.trace.getTracer('x'))
// @ts-expect-error the list isn't to be changed
metricsCatalog().metrics.push(name)
