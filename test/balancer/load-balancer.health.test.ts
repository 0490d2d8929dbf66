import { type HealthOptions, LoadBalancer, type LoadBalancerOptions } from 'spillway'
import { FakeClock, seededRandom } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { codeOf, type Node, nodes, pickIds, recordEvents, statesOf, tally, thrownBy } from './support/balancers.js'

/** Checks whose answers are what `sick` says, and how many ran at once. */
class Clinic {
  readonly sick = new Map<string, unknown>()
  readonly checks: string[] = []
  readonly signals = new Map<string, AbortSignal>()
  readonly hanging = new Map<string, (answer: unknown) => void>()
  readonly open = new Map<string, number>()
  widest = 0
  total = 0

  readonly check = (instance: Node, { signal }: { signal: AbortSignal }): unknown => {
    const { id } = instance
    this.checks.push(id)
    this.signals.set(id, signal)
    const how = this.sick.get(id)
    if (how === 'throws') throw new Error(`${id} is broken`)
    if (how === 'rejects') return Promise.reject(new Error(`${id} is down`))
    if (how === 'false') return false
    if (how !== 'hangs') return Promise.resolve(true)
    this.open.set(id, (this.open.get(id) ?? 0) + 1)
    this.total++
    this.widest = Math.max(this.widest, this.total)
    return new Promise((resolve) => {
      this.hanging.set(id, (answer) => {
        this.open.set(id, (this.open.get(id) ?? 0) - 1)
        this.total--
        resolve(answer)
      })
    })
  }
}

function checked(
  list: readonly Node[],
  health: Partial<HealthOptions<Node>> = {},
  options: LoadBalancerOptions<Node> = {},
): { balancer: LoadBalancer<Node>; clinic: Clinic; clock: FakeClock } {
  const clock = new FakeClock()
  const clinic = new Clinic()
  const balancer = new LoadBalancer(list, {
    clock,
    random: () => 0.5,
    health: { check: clinic.check, intervalMs: 1000, timeoutMs: 200, ...health },
    ...options,
  })
  return { balancer, clinic, clock }
}

describe('checks', () => {
  test('begin with the first use, not in the constructor and not within a pick', async () => {
    const { balancer, clinic, clock } = checked(nodes('a', 'b'))
    expect(clock.pending).toBe(0)

    balancer.pick().release()
    expect(clinic.checks).toEqual([])
    await clock.advance(0)

    expect(clinic.checks).toEqual(['a', 'b'])
    await balancer.close()
    expect(clock.pending).toBe(0)
  })

  test('an instance falls after three failures in a row and rises after two passes', async () => {
    for (const how of ['throws', 'rejects', 'false', 'hangs']) {
      const { balancer, clinic, clock } = checked(nodes('a', 'b', 'c'))
      const seen = recordEvents(balancer, 'becameHealthy', 'becameUnhealthy')
      await balancer.start()
      clinic.sick.set('a', how)

      await clock.advance(2000 + 2 * 200)
      expect(statesOf(balancer).a, how).toBe('healthy')
      await clock.advance(1000)
      if (how === 'hangs') await clock.advance(1000)
      expect(statesOf(balancer).a, how).toBe('unhealthy')
      expect(tally(pickIds(balancer, 4)), how).toEqual({ b: 2, c: 2 })

      clinic.sick.clear()
      clinic.hanging.get('a')?.(true)
      await clock.advance(1000)
      expect(statesOf(balancer).a, how).toBe('unhealthy')
      await clock.advance(1500)
      expect(statesOf(balancer).a, how).toBe('healthy')
      expect(seen, how).toEqual(['becameUnhealthy a', 'becameHealthy a'])
      await balancer.close()
      expect(clock.pending).toBe(0)
    }
  })

  test('rise and fall count in a row: one other answer begins anew', async () => {
    const { balancer, clinic, clock } = checked(nodes('a', 'b', 'c'), { fall: 2, rise: 2 })
    const answers = ['false', 'ok', 'false', 'ok', 'false', 'false', 'ok', 'false', 'ok', 'ok']
    const states: string[] = []

    clinic.sick.set('a', answers[0])
    await balancer.start()
    await clock.advance(0)
    for (const answer of answers.slice(1)) {
      clinic.sick.set('a', answer)
      await clock.advance(1000)
      states.push(statesOf(balancer).a as string)
    }

    const [well, ill] = ['healthy', 'unhealthy']
    expect(states).toEqual([well, well, well, well, ill, ill, ill, ill, well])
    await balancer.close()
  })

  test('a check that takes too long is aborted, and none of that instance begins before it has come back', async () => {
    const { balancer, clinic, clock } = checked(nodes('a', 'b', 'c'))
    clinic.sick.set('a', 'hangs')
    const errors: unknown[] = []
    balancer.on('becameUnhealthy', ({ error }) => errors.push(error))
    await balancer.start()
    await clock.advance(200)
    expect(clinic.signals.get('a')?.aborted).toBe(true)

    await clock.advance(10_000)

    expect(clinic.checks.filter((id) => id === 'a')).toHaveLength(1)
    expect(statesOf(balancer).a).toBe('unhealthy')
    expect(errors).toMatchObject([
      { code: 'ERR_TIMEOUT', message: 'load-balancer: a check of a took longer than 200 ms' },
    ])
    clinic.sick.clear()
    clinic.hanging.get('a')?.(true)
    await clock.advance(3000)
    expect(statesOf(balancer).a).toBe('healthy')
    await balancer.close()
    expect(clock.pending).toBe(0)
  })

  test('no more run at once than concurrency, and every instance has its turn', async () => {
    const list = nodes(...Array.from({ length: 50 }, (_, n) => `n${n}`))
    const { balancer, clinic, clock } = checked(list, { concurrency: 7 })
    for (const { id } of list) clinic.sick.set(id, 'hangs')
    await balancer.start()

    await clock.advance(0)
    expect(clinic.total).toBe(7)
    for (let turn = 0; turn < 10; turn++) {
      for (const { id } of list) if ((clinic.open.get(id) ?? 0) > 0) clinic.hanging.get(id)?.(true)
      await clock.advance(0)
    }

    expect(clinic.widest).toBe(7)
    expect(new Set(clinic.checks).size).toBe(50)
    await balancer.close()
    expect(clock.pending).toBe(0)
  })

  test('intervals differ by chance, so that checks that began together do not stay together', async () => {
    const list = nodes(...Array.from({ length: 20 }, (_, n) => `n${n}`))
    const clock = new FakeClock()
    const times: number[] = []
    const check = (): void => void times.push(clock.now())
    const health = { check, intervalMs: 1000 }
    const balancer = new LoadBalancer(list, { clock, random: seededRandom(5), health })
    await balancer.start()

    await clock.advance(1100)

    const later = times.slice(20)
    expect(later).toHaveLength(20)
    expect(Math.min(...later)).toBeGreaterThanOrEqual(900)
    expect(new Set(later).size).toBeGreaterThan(15)
    await balancer.close()
  })

  test('an instance that leaves the list has its check aborted, and a new one is checked', async () => {
    let list = nodes('a', 'b')
    const clock = new FakeClock()
    const clinic = new Clinic()
    clinic.sick.set('a', 'hangs')
    const balancer = new LoadBalancer(async () => list, { clock, health: { check: clinic.check, timeoutMs: 60_000 } })
    await balancer.start()
    await clock.advance(0)

    list = nodes('b', 'c')
    await balancer.refresh()
    await clock.advance(0)

    expect(clinic.signals.get('a')?.aborted).toBe(true)
    expect(clinic.checks).toEqual(['a', 'b', 'c'])
    clinic.hanging.get('a')?.(false)
    await clock.advance(0)
    expect(statesOf(balancer)).toEqual({ b: 'healthy', c: 'healthy' })
    await balancer.close()
    expect(clock.pending).toBe(0)
  })

  test('health survives a refresh, and close aborts what runs', async () => {
    const clock = new FakeClock()
    const clinic = new Clinic()
    clinic.sick.set('a', 'false')
    const health = { check: clinic.check, intervalMs: 1000, fall: 1 }
    const balancer = new LoadBalancer(async () => nodes('a', 'b', 'c'), { clock, health })
    await balancer.start()
    await clock.advance(0)
    expect(statesOf(balancer).a).toBe('unhealthy')

    await balancer.refresh()
    expect(statesOf(balancer).a).toBe('unhealthy')
    clinic.sick.set('b', 'hangs')
    await clock.advance(1100)
    await balancer.close()

    expect(clinic.signals.get('b')?.aborted).toBe(true)
    expect(clock.pending).toBe(0)
  })

  test('a check may pick, refresh and close', async () => {
    const clock = new FakeClock()
    const check = async (): Promise<void> => {
      balancer.pick().release()
      await balancer.refresh()
      void balancer.close()
    }
    const balancer: LoadBalancer<Node> = new LoadBalancer(nodes('a'), { clock, health: { check } })
    await balancer.start()

    await clock.advance(0)

    expect(codeOf(thrownBy(() => balancer.pick()))).toBe('ERR_CLOSED')
    expect(clock.pending).toBe(0)
  })
})

describe('panic', () => {
  test('with fewer well than the threshold everyone is picked, until there are enough again', async () => {
    const { balancer, clinic, clock } = checked([...nodes('a', 'b', 'c', 'd'), { id: 'off', weight: 0 }], { fall: 1 })
    const panics: unknown[] = []
    balancer.on('panicked', (event) => panics.push(['panicked', event]))
    balancer.on('recovered', (event) => panics.push(['recovered', event]))
    clinic.sick.set('a', 'false').set('b', 'false')
    await balancer.start()

    await clock.advance(0)
    expect(tally(pickIds(balancer, 4))).toEqual({ c: 2, d: 2 })
    expect(balancer.stats().panicking).toBe(false)
    clinic.sick.set('c', 'false')
    await clock.advance(1000)
    expect(balancer.stats().panicking).toBe(true)
    expect(tally(pickIds(balancer, 8))).toEqual({ a: 2, b: 2, c: 2, d: 2 })
    clinic.sick.clear()
    await clock.advance(2000)

    expect(balancer.stats().panicking).toBe(false)
    expect(panics).toEqual([
      ['panicked', { eligible: 1, total: 4 }],
      ['recovered', { eligible: 2, total: 4 }],
    ])
    await balancer.close()
  })

  test('with none well and panicThreshold 0 there is nothing to pick', async () => {
    const { balancer, clinic, clock } = checked(nodes('a', 'b'), { fall: 1 }, { panicThreshold: 0 })
    clinic.sick.set('a', 'false').set('b', 'false')
    await balancer.start()

    await clock.advance(0)

    const error = thrownBy(() => balancer.pick())
    expect(codeOf(error)).toBe('ERR_NO_INSTANCE')
    expect((error as Error).message).toBe('load-balancer has no instance that is well (of 2)')
    expect(balancer.stats()).toMatchObject({ panicking: false, instances: { unhealthy: 2 } })
    await balancer.close()
  })

  test('those that are draining are not picked in a panic either', async () => {
    const { balancer, clinic, clock } = checked(nodes('a', 'b', 'c'), { fall: 1 })
    for (const id of ['a', 'b', 'c']) clinic.sick.set(id, 'false')
    await balancer.start()
    await clock.advance(0)

    await balancer.drainInstance('a')

    expect(tally(pickIds(balancer, 4))).toEqual({ b: 2, c: 2 })
    await balancer.close()
  })
})
