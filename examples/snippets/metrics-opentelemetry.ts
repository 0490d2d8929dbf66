// Metrics and traces of a batcher with OpenTelemetry: what is in the batch's span, and which requests it came from.
import assert from 'node:assert/strict'
import * as api from '@opentelemetry/api'
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks'
import {
  AggregationTemporality,
  InMemoryMetricExporter,
  MeterProvider,
  PeriodicExportingMetricReader,
} from '@opentelemetry/sdk-metrics'
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base'
import { AsyncBatcher } from 'spillway'
import { batchTracer, instrument } from 'spillway/metrics'

// What an application has set up already; here, what would be sent away stays in memory.
const spans = new InMemorySpanExporter()
const metrics = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE)
const reader = new PeriodicExportingMetricReader({ exporter: metrics })
const provider = new MeterProvider({ readers: [reader] })
api.context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable())
api.trace.setGlobalTracerProvider(new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(spans)] }))
api.metrics.setGlobalMeterProvider(provider)

// Of one name in both: a record names metrics, and the component itself its spans.
const orders = new AsyncBatcher(async (ids: number[]) => ids, { name: 'orders', tracer: batchTracer(api) })
const off = instrument(api.metrics.getMeter('shop'), { orders })

// Two requests, whose items share a batch.
const tracer = api.trace.getTracer('shop')
const request = (route: string, ids: number[]) =>
  tracer.startActiveSpan(route, async (span) => {
    await Promise.all(ids.map((id) => orders.add(id)))
    span.end()
    return span.spanContext().spanId
  })
const requests = await Promise.all([request('GET /a', [1, 2]), request('GET /b', [3])])

const [batch] = spans.getFinishedSpans().filter(({ name }) => name.endsWith('batch'))
console.log(batch?.name, batch?.attributes)
assert.equal(batch?.attributes['spillway.batch.size'], 3)
assert.deepEqual(batch.links.map(({ context }) => context.spanId).sort(), requests.sort())

await reader.forceFlush()
const [scope] = metrics.getMetrics()[0]?.scopeMetrics ?? []
const items = scope?.metrics.find(({ descriptor }) => descriptor.name === 'spillway.batch.items')
const [succeeded] = items?.dataPoints.filter(({ attributes }) => attributes['outcome'] === 'succeeded') ?? []
console.log(succeeded?.attributes, succeeded?.value)
assert.equal(succeeded?.value, 3)

off()
await orders.close()
await provider.shutdown()
