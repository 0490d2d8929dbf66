import { isSpillwayError, LoadBalancer, type LoadBalancerOptions, type RunOptions } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { codeOf, expectBooks, type Node, nodes, pickIds, reasonOf, thrownBy } from './support/balancers.js'

const withOption = (name: string, value: unknown): LoadBalancerOptions<Node> => {
  const [outer, inner] = name.split('.') as [string, string | undefined]
  if (inner === undefined) return { [outer]: value }
  const whole = outer === 'health' ? { check: () => true, [inner]: value } : { [inner]: value }
  return { [outer]: whole }
}

describe('a wrong option throws OptionError that names field, rule, value and type', () => {
  const duration = 'must be a number between 1 and 2147483647'
  const ratio = 'must be a number between 0 and 1'
  const count = 'must be a whole number between 1 and 2147483647'
  const rules: [string, string, unknown[]][] = [
    ['refreshMs', duration, ['10', 0, -1, Number.NaN, Number.POSITIVE_INFINITY, null]],
    ['refreshTimeoutMs', duration, ['10', 0, null]],
    ['countsEveryMs', duration, [0, null, Number.NaN]],
    ['countsTimeoutMs', duration, [0, null]],
    ['slowStartMs', 'must be a number between 0 and 2147483647', [-1, '1', null]],
    ['panicThreshold', ratio, [-0.1, 1.1, null, '0']],
    ['retryBudget.ratio', ratio, [-1, 2, null]],
    ['retryBudget.minRetries', 'must be a whole number between 0 and 2147483647', [-1, 0.5, null]],
    ['health.intervalMs', duration, [0, null]],
    ['health.timeoutMs', duration, [0, null]],
    ['health.rise', count, [0, 1.5, null]],
    ['health.fall', count, [0, 1.5, null]],
    ['health.concurrency', count, [0, null]],
    ['health.check', 'must be a function', [null, 'ping', {}]],
    ['ejection.maxEjectedRatio', ratio, [-1, 2, null]],
    ['ejection.failureThreshold', count, [0, null]],
    ['ejection.recoveryTimeoutMs', duration, [0, null]],
    ['ejection.classifyError', 'must be a function', ['failure']],
    ['onCounts', 'must be a function', [null, 'counts', {}]],
    [
      'algorithm',
      "must be one of 'round_robin', 'weighted', 'least_conn', 'p2c', 'peak_ewma', 'consistent_hash'",
      [null, 'random'],
    ],
    ['hash', "must be one of 'maglev', 'ring'", [null, 'md5']],
    ['health', 'must be an object', [null, 'yes', 7]],
    ['ejection', 'must be an object', [null, true]],
    ['retryBudget', 'must be an object', [null, 3]],
    ['name', 'must be a string', [null, 7]],
  ]

  for (const [field, rule, values] of rules) {
    test(field, () => {
      for (const value of values) {
        const error = thrownBy(() => new LoadBalancer(nodes('a'), withOption(field, value)))

        expect(isSpillwayError(error, 'ERR_OPTION'), `${field}: ${String(value)}`).toBe(true)
        expect(error).toMatchObject({ field })
        expect((error as Error).message).toContain(`${field} ${rule}, got `)
      }
    })
  }

  test('trip and failureThreshold together', () => {
    const trip = {} as never
    const error = thrownBy(() => new LoadBalancer(nodes('a'), { ejection: { trip, failureThreshold: 3 } }))

    expect(error).toMatchObject({ code: 'ERR_OPTION', field: 'ejection.failureThreshold' })
  })

  test('an explicit undefined is the default everywhere', () => {
    const names = Object.keys(LoadBalancer.defaults)
    const options = Object.fromEntries(names.map((name) => [name, undefined]))

    expect(pickIds(new LoadBalancer(nodes('a'), options), 2)).toEqual(['a', 'a'])
  })
})

test('a source that is none throws', () => {
  for (const source of [undefined, null, 'a,b', 7, {}, { watch: 'me' }, new Set(nodes('a'))]) {
    const error = thrownBy(() => new LoadBalancer(source as unknown as Node[]))

    expect(error).toMatchObject({ code: 'ERR_OPTION', field: 'source' })
  }
})

test('a static list that is wrong throws and names the place', () => {
  const wrong: [unknown[], string][] = [
    [[null], 'instances[0]'],
    [[{ id: 'a' }, 'b'], 'instances[1]'],
    [[{}], 'instances[0].id'],
    [[{ id: '' }], 'instances[0].id'],
    [[{ id: 7 }], 'instances[0].id'],
    [[{ id: 'a', weight: -1 }], 'instances[0].weight'],
    [[{ id: 'a', weight: Number.NaN }], 'instances[0].weight'],
    [[{ id: 'a', weight: Number.POSITIVE_INFINITY }], 'instances[0].weight'],
    [[{ id: 'a', weight: '3' }], 'instances[0].weight'],
    [[{ id: 'a', weight: null }], 'instances[0].weight'],
  ]

  for (const [list, field] of wrong) {
    expect(thrownBy(() => new LoadBalancer(list as Node[]))).toMatchObject({ code: 'ERR_OPTION', field })
  }
})

test('wrong options of run reject, never throw', async () => {
  const balancer = new LoadBalancer(nodes('a'), { clock: new FakeClock() })
  const wrong: [RunOptions | null, string][] = [
    [{ attempts: 0 }, 'attempts'],
    [{ attempts: 1.5 }, 'attempts'],
    [{ attempts: null as unknown as number }, 'attempts'],
    [{ timeoutMs: 0 }, 'timeoutMs'],
    [{ timeoutMs: null as unknown as number }, 'timeoutMs'],
    [{ retryable: 'no' as unknown as () => boolean }, 'retryable'],
    [{ signal: {} as AbortSignal }, 'signal'],
    [{ key: 7 as unknown as string }, 'key'],
    [null, 'options'],
  ]

  for (const [options, field] of wrong) {
    const reason = await reasonOf(balancer.run(() => 'never', options as RunOptions))
    expect(reason).toMatchObject({ code: 'ERR_OPTION', field })
  }
  expect(await reasonOf(balancer.run('fn' as unknown as () => string))).toMatchObject({ field: 'fn' })

  expect(expectBooks(balancer)).toMatchObject({ offered: 10, rejected: 10 })
})

test('wrong arguments of the others', async () => {
  const balancer = new LoadBalancer(nodes('a'), { clock: new FakeClock() })

  expect(await reasonOf(balancer.drainInstance('b'))).toMatchObject({ code: 'ERR_OPTION', field: 'id' })
  expect(await reasonOf(balancer.drainInstance('a', { signal: 'x' as unknown as AbortSignal }))).toMatchObject({
    field: 'signal',
  })
  expect(codeOf(thrownBy(() => balancer.undrainInstance('b')))).toBe('ERR_OPTION')
  expect(await reasonOf(balancer.close({ timeoutMs: -1 }))).toMatchObject({ field: 'timeoutMs' })
  expect(codeOf(thrownBy(() => balancer.on('updated', null as unknown as () => void)))).toBe('ERR_OPTION')
  expect(balancer.instances()[0]?.state).toBe('healthy')
})

test('a classifier that throws or answers nonsense is reported once, and the default holds', async () => {
  const warnings: string[] = []
  const collect = (warning: Error): void => void warnings.push(warning.message)
  process.on('warning', collect)
  const classifyError = (error: unknown): 'failure' => {
    if ((error as Error).message === 'nonsense') return 'maybe' as 'failure'
    throw new Error('no idea')
  }
  const balancer = new LoadBalancer(nodes('a'), { clock: new FakeClock(), name: 'api', ejection: { classifyError } })

  for (const message of ['nonsense', 'other']) {
    await reasonOf(balancer.run(() => Promise.reject(new Error(message))))
  }
  for (let turn = 0; turn < 2; turn++) await new Promise((resolve) => setImmediate(resolve))

  process.off('warning', collect)
  expect(balancer.stats().failed).toBe(2)
  expect(warnings).toEqual(["a classifier of api answered maybe; it counts as 'failure'"])
})

test('listeners and callbacks that throw change no result', async () => {
  const clock = new FakeClock()
  const broken = (): never => {
    throw new Error('broken listener')
  }
  const ejection = { failureThreshold: 1 }
  const balancer = new LoadBalancer<Node>(async () => nodes('a', 'b'), { clock, ejection, name: 'api' })
  for (const event of ['updated', 'ejected', 'retried', 'drained'] as const) balancer.on(event, broken)

  await balancer.start()
  const result = await balancer.run(
    ({ id }, { attempt }) => {
      if (attempt === 1) throw new Error('down')
      return id
    },
    { attempts: 2 },
  )
  await balancer.drainInstance('a')

  expect(result).toBe('b')
  expect(expectBooks(balancer)).toMatchObject({ succeeded: 1, failed: 1, pending: 0 })
  await balancer.close()
  expect(clock.pending).toBe(0)
})

test('stats and instances are fresh and safe to turn into JSON', () => {
  const balancer = new LoadBalancer(nodes('a'), { clock: new FakeClock(), name: 'api' })
  balancer.pick()

  const stats = balancer.stats()

  expect(JSON.parse(JSON.stringify(stats))).toEqual(stats)
  expect(balancer.stats()).not.toBe(stats)
  expect(JSON.parse(JSON.stringify(balancer.instances()))).toEqual([
    { instance: { id: 'a' }, state: 'healthy', inFlight: 1, weight: 1 },
  ])
})
