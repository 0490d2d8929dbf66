// Instrumented for both outputs, with the event loop measured, and nothing taken off: nothing keeps this process alive.
import { MeterProvider } from '@opentelemetry/sdk-metrics'
import { Registry } from 'prom-client'
import { AsyncBatcher } from 'spillway'
import { instrument, prometheus } from 'spillway/metrics'
import { ManualReader } from './otel-reader.js'

const orders = new AsyncBatcher(async (items: number[]) => items)
const registry = new Registry()
prometheus(registry, { orders })
instrument(new MeterProvider({ readers: [new ManualReader()] }).getMeter('test'), { orders })
await orders.add(1)
const text = await registry.metrics()
console.log(text.match(/^spillway_batch_items_total.*succeeded.*$/m)?.[0])
