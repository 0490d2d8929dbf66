import { Registry } from 'prom-client'
import { AsyncBatcher, BreakerRegistry, CircuitBreaker } from 'spillway'
import { batchTracer, instrument, metricsDefaults, prometheus } from 'spillway/metrics'
import { Pool } from 'undici'
import { describe, expect, it, test } from 'vitest'
import { genericPool } from './support/components.js'
import { Otel } from './support/otel-reader.js'

const orders = new AsyncBatcher(async (items: number[]) => items, { name: 'orders' })

const wrong: [string, unknown, unknown?][] = [
  ['components must be an array of components, or an object with one a name, got undefined (undefined)', undefined],
  ['components must be an array of components, or an object with one a name', new Map([['orders', orders]])],
  ['components must be an array of components, or an object with one a name', new BreakerRegistry()],
  ['components must be an array of components, or an object with one a name', genericPool()],
  ['components must be an array of components, or an object with one a name', orders],
  ['components[0] must be a component, got 1 (number)', [1]],
  ['components.a must be a component, got null (null)', { a: null }],
  ['components.a must be a component that spillway/metrics knows, got {} (object)', { a: {} }],
  ['components.a must be a component that spillway/metrics knows', { a: new Map() }],
  ['components.a must be a component that spillway/metrics knows', { a: { stats: () => ({ name: 'x' }) } }],
  ['components.a must be a component that spillway/metrics knows', { a: { stats: () => undefined } }],
  ['components.a must be a component that spillway/metrics knows', { a: new Pool('http://127.0.0.1:1') }],
  ['components[0] must have a name of its own in a list', [new BreakerRegistry()]],
  ['components[0] must have a name of its own in a list', [genericPool()]],
  ['components[1] must have another name than the ones before', [orders, new CircuitBreaker({ name: 'orders' })]],
  ['components. must have a name of its own', { '': orders }],
  ['options must be an object, got null (null)', { orders }, null],
  ['maxInstances must be a whole number between 1 and 2147483647, got 0 (number)', { orders }, { maxInstances: 0 }],
  ['eventLoop must be true or false, got "no" (string)', { orders }, { eventLoop: 'no' }],
]

describe.each([
  ['instrument', (...rest: [never, never]) => instrument(new Otel().meter(), ...rest)],
  ['prometheus', (...rest: [never, never]) => prometheus(new Registry(), ...rest)],
] as const)('%s', (_, call) => {
  test.each(wrong)('%s', (message, components, options) => {
    expect(() => call(components as never, options as never)).toThrow(
      expect.objectContaining({ name: 'OptionError', message: expect.stringContaining(message) }),
    )
  })
})

it('refuses what is no meter, no registry, no API', () => {
  expect(() => instrument({} as never, { orders })).toThrow('meter must have a method createObservableCounter')
  expect(() => instrument(undefined as never, { orders })).toThrow('meter must have a method createObservableCounter')
  expect(() => prometheus(undefined as never, { orders })).toThrow('registry must have a method getSingleMetric')
  expect(() => batchTracer(undefined as never)).toThrow('api must have the function trace.getActiveSpan')
  expect(() => batchTracer({ trace: { getActiveSpan() {}, getTracer() {}, setSpan() {} } } as never)).toThrow(
    'api must have the function context.active',
  )
})

it('takes nothing when it refuses', () => {
  const registry = new Registry()
  const meter = new Otel().meter()
  const components = { orders, broken: {} } as never

  expect(() => prometheus(registry, components)).toThrow('components.broken')
  expect(() => instrument(meter, components)).toThrow('components.broken')
  expect(registry.getMetricsAsArray()).toEqual([])

  prometheus(registry, { orders }, { eventLoop: undefined, maxInstances: undefined })()
  instrument(meter, { orders }, { eventLoop: false })()
})

it('takes a record whose names are those of fields by which components are known', () => {
  prometheus(new Registry(), { stats: orders, dispatch: orders, get: orders, entries: orders }, { eventLoop: false })()
})

it('leaves nothing behind where a component cannot be listened to', () => {
  const deaf = {
    name: 'deaf',
    stats: () => orders.stats(),
    on() {
      throw new TypeError('no listeners')
    },
  }
  const registry = new Registry()
  const meter = new Otel().meter()

  expect(() => prometheus(registry, [deaf])).toThrow('no listeners')
  expect(() => instrument(meter, [deaf], { eventLoop: false })).toThrow('no listeners')

  expect(registry.getMetricsAsArray()).toEqual([])
  // The name is free.
  instrument(meter, { deaf: orders }, { eventLoop: false })()
})

it('lets what stats() throws come out as an OptionError, at once', () => {
  const broken = {
    name: 'broken',
    stats() {
      throw new TypeError('not yet')
    },
  }

  expect(() => prometheus(new Registry(), [broken])).toThrow(
    expect.objectContaining({
      name: 'OptionError',
      message: expect.stringContaining('components[0] must have a stats() that works'),
    }),
  )
})

it('has defaults', () => {
  expect(metricsDefaults).toEqual({ maxInstances: 100, eventLoop: true })
})
