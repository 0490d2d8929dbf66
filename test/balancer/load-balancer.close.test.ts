import { LoadBalancer } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import {
  codeOf,
  expectBooks,
  type Node,
  nodes,
  pickIds,
  reasonOf,
  recordEvents,
  statesOf,
  tally,
  thrownBy,
} from './support/balancers.js'

function made(...ids: string[]): { balancer: LoadBalancer<Node>; clock: FakeClock } {
  const clock = new FakeClock()
  return { balancer: new LoadBalancer(nodes(...ids), { clock, name: 'api' }), clock }
}

describe('close', () => {
  test('refuses picks at once, waits for what is out, and leaves no timer', async () => {
    const { balancer, clock } = made('a', 'b')
    const leases = [balancer.pick(), balancer.pick()]
    let closed: unknown

    void balancer.close().then((report) => {
      closed = report
    })
    expect(codeOf(thrownBy(() => balancer.pick()))).toBe('ERR_CLOSED')
    leases[0]?.release()
    await clock.advance(0)
    expect(closed).toBeUndefined()
    leases[1]?.release('failure')
    await clock.advance(0)

    expect(closed).toEqual({ drained: true, abandoned: 0 })
    expect(expectBooks(balancer)).toMatchObject({ offered: 3, succeeded: 1, failed: 1, rejected: 1, pending: 0 })
    expect(clock.pending).toBe(0)
  })

  test('a lease that is released after the deadline still leaves the books straight', async () => {
    const { balancer, clock } = made('a')
    const lease = balancer.pick()

    const closed = balancer.close({ timeoutMs: 100 })
    await clock.advance(100)
    expect(await closed).toEqual({ drained: false, abandoned: 1 })
    expect(expectBooks(balancer).pending).toBe(1)
    lease.release()
    lease.release()

    expect(expectBooks(balancer)).toMatchObject({ succeeded: 1, pending: 0 })
    expect(balancer.instances()[0]?.inFlight).toBe(0)
  })

  test('runs that were accepted go on, retries included', async () => {
    const { balancer, clock } = made('a', 'b')
    let fail: (error: unknown) => void = () => undefined
    const result = balancer.run(
      ({ id }, { attempt }) => (attempt === 1 ? new Promise<string>((_, reject) => (fail = reject)) : id),
      { attempts: 2 },
    )

    const closed = balancer.close()
    fail(new Error('down'))
    await clock.advance(0)

    expect(await result).toBe('b')
    expect(await closed).toEqual({ drained: true, abandoned: 0 })
    expectBooks(balancer)
  })

  test('at the deadline runs reject, their signals abort, and what they still do counts for nothing', async () => {
    const { balancer, clock } = made('a')
    let signal: AbortSignal | undefined
    const result = reasonOf(
      balancer.run((_, context) => {
        signal = context.signal
        return new Promise(() => undefined)
      }),
    )

    const closed = balancer.close({ timeoutMs: 100 })
    await clock.advance(100)

    expect(await result).toMatchObject({ code: 'ERR_CLOSED', message: 'api was closed before this could finish' })
    expect(signal?.aborted).toBe(true)
    expect(await closed).toEqual({ drained: false, abandoned: 1 })
    expect(expectBooks(balancer)).toMatchObject({ ignored: 1, pending: 0 })
    expect(clock.pending).toBe(0)
  })

  test('is idempotent, and start, refresh and picks are refused afterwards', async () => {
    const clock = new FakeClock()
    const balancer = new LoadBalancer<Node>(async () => nodes('a'), { clock })
    const started = reasonOf(balancer.start())

    const [first, second] = await Promise.all([balancer.close(), balancer.close()])

    expect(first).toEqual(second)
    expect(codeOf(await started)).toBe('ERR_CLOSED')
    expect(codeOf(await reasonOf(balancer.start()))).toBe('ERR_CLOSED')
    expect(codeOf(await reasonOf(balancer.refresh()))).toBe('ERR_CLOSED')
    expect(codeOf(thrownBy(() => balancer.pick()))).toBe('ERR_CLOSED')
    await clock.advance(60_000)
    expect(clock.pending).toBe(0)
  })

  test('await using closes it', async () => {
    const { balancer } = made('a')
    {
      await using own = balancer
      own.pick().release()
    }

    expect(codeOf(thrownBy(() => balancer.pick()))).toBe('ERR_CLOSED')
  })
})

describe('draining', () => {
  test('a drained instance gets no picks, and the promise waits for its leases', async () => {
    const { balancer, clock } = made('a', 'b')
    const seen = recordEvents(balancer, 'drained')
    const leases = Array.from({ length: 4 }, () => balancer.pick())
    let drained = false

    void balancer.drainInstance('a').then(() => {
      drained = true
    })
    expect(statesOf(balancer)).toEqual({ a: 'draining', b: 'healthy' })
    expect(tally(pickIds(balancer, 3))).toEqual({ b: 3 })
    leases.find(({ instance }) => instance.id === 'a')?.release()
    await clock.advance(0)
    expect(drained).toBe(false)
    for (const lease of leases) lease.release()
    await clock.advance(0)

    expect(drained).toBe(true)
    expect(seen).toEqual(['drained a'])
    expect(statesOf(balancer)).toEqual({ a: 'draining', b: 'healthy' })
    balancer.undrainInstance('a')
    expect(tally(pickIds(balancer, 4))).toEqual({ a: 2, b: 2 })
  })

  test('one with nothing in flight is drained at once, and told once', async () => {
    const { balancer } = made('a', 'b')
    const seen = recordEvents(balancer, 'drained')

    await balancer.drainInstance('a')
    await balancer.drainInstance('a')

    expect(seen).toEqual(['drained a'])
  })

  test('a refresh does not undo it, and an instance that leaves the list is drained for those who wait', async () => {
    const clock = new FakeClock()
    let list = nodes('a', 'b')
    const balancer = new LoadBalancer<Node>(async () => list, { clock })
    await balancer.start()
    const leases = [balancer.pick(), balancer.pick()]
    const drained = balancer.drainInstance('a')

    await balancer.refresh()
    expect(statesOf(balancer).a).toBe('draining')
    list = nodes('b')
    await balancer.refresh()
    for (const lease of leases) lease.release()

    await drained
    expect(statesOf(balancer)).toEqual({ b: 'healthy' })
    expect(await reasonOf(balancer.drainInstance('a'))).toMatchObject({ code: 'ERR_OPTION', field: 'id' })
    await balancer.close()
    expect(clock.pending).toBe(0)
  })

  test('undrain, an abort and the deadline of close end the wait', async () => {
    const { balancer, clock } = made('a')
    balancer.pick()
    const controller = new AbortController()

    const called = reasonOf(balancer.drainInstance('a'))
    balancer.undrainInstance('a')
    expect(await called).toMatchObject({ code: 'ERR_CLOSED', message: 'api: the draining of a was called off' })
    const aborted = reasonOf(balancer.drainInstance('a', { signal: controller.signal }))
    controller.abort('enough')
    expect(await aborted).toBe('enough')
    const late = reasonOf(balancer.drainInstance('a'))
    const closed = balancer.close({ timeoutMs: 10 })
    await clock.advance(10)

    expect(await late).toMatchObject({ code: 'ERR_CLOSED', message: 'api was closed before a was drained' })
    await closed
    expect(clock.pending).toBe(0)
  })

  test('with every instance draining there is nothing to pick', async () => {
    const { balancer } = made('a')
    await balancer.drainInstance('a')

    expect(codeOf(thrownBy(() => balancer.pick()))).toBe('ERR_NO_INSTANCE')
    expect(balancer.stats().panicking).toBe(false)
  })
})
