import { type AlgorithmName, type BalancedInstance, type Lease, LoadBalancer, type LoadBalancerOptions } from 'spillway'
import { FakeClock, seededRandom } from 'spillway/testing'
import { afterEach, describe, expect, it, vi } from 'vitest'

type Options = LoadBalancerOptions<BalancedInstance>
type OnList = (list: readonly BalancedInstance[]) => void

const algorithms: readonly AlgorithmName[] = [
  'round_robin',
  'weighted',
  'least_conn',
  'p2c',
  'peak_ewma',
  'consistent_hash',
]

const numbered = (count: number): BalancedInstance[] => Array.from({ length: count }, (_, i) => ({ id: `n${i}` }))
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
const stateOf = (balancer: LoadBalancer<BalancedInstance>, id: string): string | undefined =>
  balancer.instances().find(({ instance }) => instance.id === id)?.state

/** What a promise settles with, or `'pending'` while it doesn't. */
const outcomeOf = (promise: Promise<unknown>): Promise<unknown> =>
  Promise.race([promise.catch((error: unknown) => error), turn().then(() => 'pending')])

function make(count: number, options: Options = {}): { balancer: LoadBalancer<BalancedInstance>; clock: FakeClock } {
  const clock = new FakeClock()
  return { balancer: new LoadBalancer(numbered(count), { clock, random: seededRandom(3), ...options }), clock }
}

afterEach(() => {
  vi.restoreAllMocks()
})

describe('health checks', () => {
  it('of thousands of instances may all throw at once', async () => {
    let checks = 0
    const check = (): never => {
      checks++
      throw new Error('down')
    }
    const { balancer, clock } = make(10_000, { health: { check, fall: 1 } })
    const strange: unknown[] = []
    const panics: unknown[] = []
    balancer.on('becameUnhealthy', ({ error }) => {
      if ((error as Error).message !== 'down') strange.push(error)
    })
    balancer.on('panicked', (payload) => panics.push(payload))

    await balancer.start()
    await clock.advance(0)

    expect(checks).toBe(10_000)
    expect(strange).toEqual([])
    // One look for all of them.
    expect(panics).toEqual([{ eligible: 0, total: 10_000 }])
    await balancer.close()
    expect(clock.pending).toBe(0)
  })

  it('never overlap, though the instance left the list and came back meanwhile', async () => {
    const clock = new FakeClock()
    let list = numbered(2)
    const running: (() => void)[] = []
    let begun = 0
    const check = ({ id }: BalancedInstance): unknown => {
      if (id !== 'n1') return true
      begun++
      return new Promise<void>((resolve) => running.push(resolve))
    }
    const balancer = new LoadBalancer(async () => list, {
      clock,
      health: { check, intervalMs: 1000 },
      refreshMs: 60_000,
    })
    await balancer.start()
    await clock.advance(0)

    list = numbered(1)
    await balancer.refresh()
    list = numbered(2)
    await balancer.refresh()
    await clock.advance(0)
    expect(begun).toBe(1)
    running[0]?.()
    await clock.advance(1100)

    expect(begun).toBe(2)
    await balancer.close()
    expect(clock.pending).toBe(0)
  })
})

describe('a run', () => {
  it('rejects at once when its signal aborts while its instance is picked', async () => {
    const controller = new AbortController()
    const probeGate = (): boolean => {
      controller.abort(new Error('gone'))
      return true
    }
    const { balancer, clock } = make(2, { ejection: { failureThreshold: 1, recoveryTimeoutMs: 100, probeGate } })
    balancer.pick().release('failure')
    await clock.advance(100)
    balancer.pick().release()
    let called = false

    const run = balancer.run(
      () => {
        called = true
        return new Promise(() => undefined)
      },
      { signal: controller.signal },
    )

    expect(await outcomeOf(run)).toEqual(new Error('gone'))
    expect(called).toBe(false)
    expect(balancer.stats()).toMatchObject({ pending: 0, ignored: 1 })
  })

  it('that a listener ends while a retry is picked makes and tells no retry', async () => {
    const controller = new AbortController()
    const probeGate = (): boolean => {
      controller.abort(new Error('gone'))
      return true
    }
    const { balancer, clock } = make(2, { ejection: { failureThreshold: 1, recoveryTimeoutMs: 100, probeGate } })
    balancer.pick().release('failure')
    await clock.advance(100)
    // The next turn is that of n1, so that the retry is the probe of n0.
    let retries = 0
    balancer.on('retried', () => retries++)

    const run = balancer.run(() => Promise.reject(new Error('failed')), { attempts: 2, signal: controller.signal })

    await expect(run).rejects.toThrow('gone')
    expect(retries).toBe(0)
    expect(balancer.stats()).toMatchObject({ pending: 0, failed: 2, ignored: 1, retries: 0, retriesInFlight: 0 })
  })

  it('may have more attempts that throw than the stack has room for', async () => {
    const { balancer } = make(2)
    const failing = (): never => {
      throw new Error('failed')
    }

    await expect(balancer.run(failing, { attempts: 20_000 })).rejects.toThrow('failed')

    expect(balancer.stats()).toMatchObject({ failed: 20_000, retries: 19_999, pending: 0, retriesInFlight: 0 })
  })

  it('has no unhandledRejection of classifiers and retryable that are async', async () => {
    const unhandled: unknown[] = []
    const note = (error: unknown): void => void unhandled.push(error)
    process.on('unhandledRejection', note)
    vi.spyOn(process, 'emitWarning').mockImplementation(() => undefined)
    const failing = (async () => {
      throw new Error('async')
    }) as never
    const { balancer } = make(2, { ejection: { classifyError: failing, classifyResult: failing } })

    await balancer.run(() => 'fine')
    const run = balancer.run(() => Promise.reject(new Error('failed')), { attempts: 2, retryable: failing })
    await expect(run).rejects.toThrow('failed')
    await turn()

    process.off('unhandledRejection', note)
    expect(unhandled).toEqual([])
    expect(balancer.stats()).toMatchObject({ succeeded: 1, failed: 2 })
  })
})

describe('a watch', () => {
  it('that broke off is begun again, whatever it still says', async () => {
    const clock = new FakeClock()
    const watchers: { onList: OnList; signal: AbortSignal }[] = []
    const watch = (onList: OnList, { signal }: { signal: AbortSignal }): unknown => {
      watchers.push({ onList, signal })
      return watchers.length === 1 ? Promise.reject(new Error('broke off')) : onList(numbered(2))
    }
    const balancer = new LoadBalancer<BalancedInstance>({ watch: watch as never }, { clock, refreshMs: 1000 })
    await expect(balancer.start()).rejects.toThrow('broke off')

    watchers[0]?.onList(numbered(1))
    expect(watchers[0]?.signal.aborted).toBe(true)
    expect(balancer.instances()).toEqual([])
    await clock.advance(1000)

    expect(watchers).toHaveLength(2)
    expect(balancer.instances()).toHaveLength(2)
    await balancer.close()
    expect(clock.pending).toBe(0)
  })

  it('that tells of changes alone is asked anew after an empty list and an error, so that the list goes in the end', async () => {
    const clock = new FakeClock()
    let list = numbered(2)
    let tell: { onList: OnList; onError: (error: unknown) => void } | undefined
    const watch = (onList: OnList, { onError }: { onError: (error: unknown) => void }): void => {
      tell = { onList, onError }
      onList(list)
    }
    const balancer = new LoadBalancer<BalancedInstance>({ watch }, { clock, refreshMs: 1000 })
    await balancer.start()

    list = []
    tell?.onList(list)
    tell?.onError(new Error('a hiccup'))
    await clock.advance(999)
    expect(balancer.instances()).toHaveLength(2)
    await clock.advance(1)

    expect(balancer.instances()).toEqual([])
    await balancer.close()
    expect(clock.pending).toBe(0)
  })

  it('from which no list comes in time is told and counted as a failed refresh', async () => {
    const clock = new FakeClock()
    const balancer = new LoadBalancer<BalancedInstance>({ watch: () => undefined }, { clock, refreshTimeoutMs: 1000 })
    const errors: unknown[] = []
    balancer.on('refreshFailed', ({ error }) => errors.push(error))

    const started = balancer.start()
    await clock.advance(1000)

    await expect(started).rejects.toMatchObject({ code: 'ERR_TIMEOUT', timeoutMs: 1000 })
    expect(errors).toMatchObject([{ code: 'ERR_TIMEOUT' }])
    expect(balancer.stats().refreshFailures).toBe(1)
    await balancer.close()
  })
})

describe('an ejected instance', () => {
  it.each(algorithms)('gets one probe at a time, and another one after a leaked one, under %s', async (algorithm) => {
    const { balancer, clock } = make(3, { algorithm, ejection: { failureThreshold: 2, recoveryTimeoutMs: 1000 } })
    const probes = (options: { exclude?: ReadonlySet<string> }): Lease<BalancedInstance>[] =>
      Array.from({ length: 200 }, (_, i) => balancer.pick({ key: `key ${i}`, ...options })).filter((lease) => {
        const isProbe = lease.instance.id === 'n0'
        if (!isProbe) lease.release()
        return isProbe
      })
    for (let failures = 0; failures < 2; failures++) {
      balancer.pick({ exclude: new Set(['n1', 'n2']) }).release('failure')
    }
    expect(probes({})).toEqual([])

    await clock.advance(1000)
    const leaked = probes({})
    expect(leaked).toHaveLength(1)
    await clock.advance(2000)
    const [probe, ...more] = probes({ exclude: new Set(['n1']) })
    expect(more).toEqual([])
    probe?.release()

    expect(stateOf(balancer, 'n0')).toBe('healthy')
    leaked[0]?.release('failure')
    expect(stateOf(balancer, 'n0')).toBe('healthy')
    expect(balancer.stats().pending).toBe(0)
  })

  it('is probed by peak_ewma, too, when it failed slowly', async () => {
    const ejection = { failureThreshold: 2, recoveryTimeoutMs: 30_000 }
    const { balancer, clock } = make(2, { algorithm: 'peak_ewma', ejection })
    const call = async (id: string, ms: number, outcome: 'success' | 'failure'): Promise<void> => {
      const lease = balancer.pick({ exclude: new Set([id === 'n0' ? 'n1' : 'n0']) })
      await clock.advance(ms)
      lease.release(outcome)
    }
    await call('n1', 1, 'success')
    await call('n0', 5000, 'failure')
    await call('n0', 5000, 'failure')
    expect(stateOf(balancer, 'n0')).toBe('ejected')

    await clock.advance(30_000)
    for (let picks = 0; picks < 20 && stateOf(balancer, 'n0') === 'ejected'; picks++) {
      const lease = balancer.pick()
      await clock.advance(1)
      lease.release()
    }

    expect(stateOf(balancer, 'n0')).toBe('healthy')
  })
})

describe('ejection', () => {
  it('costs picks no look at the clock while nobody is ejected', () => {
    class CountingClock extends FakeClock {
      reads = 0
      override now(): number {
        this.reads++
        return super.now()
      }
    }
    const clock = new CountingClock()
    const { balancer } = make(3, { clock, ejection: {} })
    balancer.pick().release()
    const { reads } = clock

    for (let picks = 0; picks < 100; picks++) balancer.pick().release(picks % 2 === 0 ? 'success' : 'failure')

    expect(clock.reads).toBe(reads)
  })
})

describe('the ring', () => {
  it('takes any finite weight', () => {
    const weights = [Number.MIN_VALUE, 1e-300, 1, 1e300, 1e308, Number.MAX_VALUE]
    for (const weight of weights) {
      for (const other of weights) {
        const list = [
          { id: '__proto__', weight },
          { id: '\ud800', weight: other },
        ]
        const balancer = new LoadBalancer(list, { algorithm: 'consistent_hash', hash: 'ring' })

        expect(['__proto__', '\ud800']).toContain(balancer.pick({ key: 'key' }).instance.id)
      }
    }
  })

  it('of ten thousand gives each about its share and moves few keys when one leaves', async () => {
    const clock = new FakeClock()
    let list = numbered(10_000)
    const balancer = new LoadBalancer(async () => list, { clock, algorithm: 'consistent_hash', hash: 'ring' })
    await balancer.start()
    const owners = (): string[] =>
      Array.from({ length: 100_000 }, (_, i) => {
        const lease = balancer.pick({ key: `key ${i}` })
        lease.release()
        return lease.instance.id
      })

    const before = owners()
    const counts = new Map<string, number>()
    for (const id of before) counts.set(id, (counts.get(id) ?? 0) + 1)
    list = list.slice(1)
    await balancer.refresh()
    const after = owners()

    expect(counts.size).toBeGreaterThan(9900)
    expect(Math.max(...counts.values())).toBeLessThan(40)
    expect(after.filter((id, i) => id !== before[i] && before[i] !== 'n0')).toEqual([])
    await balancer.close()
  })
})

describe('round robin', () => {
  it('takes a list that is longer than the arguments of a function, in slow start', async () => {
    const clock = new FakeClock()
    let list = numbered(1)
    const balancer = new LoadBalancer(async () => list, { clock, slowStartMs: 1000 })
    await balancer.start()
    balancer.pick().release()

    list = numbered(130_000)
    await balancer.refresh()

    expect(balancer.pick().instance.id).toBe('n0')
    expect(balancer.instances()).toHaveLength(130_000)
    const closed = balancer.close({ timeoutMs: 0 })
    await clock.advance(0)
    expect(await closed).toEqual({ drained: false, abandoned: 1 })
  })
})

describe('a draining', () => {
  it('that is asked for after the deadline of close is rejected while leases are out', async () => {
    const { balancer, clock } = make(2)
    const lease = balancer.pick()
    const closed = balancer.close({ timeoutMs: 10 })
    await clock.advance(10)
    await closed

    expect(await outcomeOf(balancer.drainInstance('n0'))).toMatchObject({ code: 'ERR_CLOSED' })

    lease.release()
    expect(await outcomeOf(balancer.drainInstance('n0'))).toBeUndefined()
  })
})
