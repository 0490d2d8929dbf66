import { status } from '@grpc/grpc-js'
import { AckedStream, type AckedStreamOptions } from 'spillway/grpc'
import { describe, expect, it, vi } from 'vitest'
import { freePort } from '../../servers/free-port.js'
import type { StreamAck, StreamMessage } from './support/counter-service.js'
import { balanced, type CounterPool, ejection, Ledger, List, type Member, startFleet } from './support/fleet.js'
import { cleanUp, tidyUp } from './support/tidy.js'

tidyUp()

const streamOver = (
  pool: CounterPool,
  options: Partial<AckedStreamOptions<string, StreamMessage, StreamAck>> = {},
): AckedStream<string, StreamMessage, StreamAck> => {
  const stream = new AckedStream<string, StreamMessage, StreamAck>(() => pool.openStream('increments'), {
    message: (key, id) => ({ id, key }),
    idOf: (ack) => ack.id,
    retry: { attempts: 100, delayMs: 10, maxDelayMs: 20 },
    ...options,
  })
  cleanUp(() => stream.close({ timeoutMs: 0 }))
  return stream
}

describe('an AckedStream over a balanced pool', () => {
  it('goes on at another instance when its own is killed; each message is acknowledged, and applied once', async () => {
    const ledger = new Ledger()
    const fleet = await startFleet(3, ledger)
    const { pool, balancer } = balanced(fleet, { balancer: { ejection } })
    await pool.warmUp()
    const stream = streamOver(pool)
    const keys = Array.from({ length: 3000 }, (_, index) => `key ${index}`)
    const answers: Promise<StreamAck>[] = []
    const killed: string[] = []

    for (const [index, key] of keys.entries()) {
      await stream.ready()
      answers.push(stream.send(key))
      if (index === 1000 || index === 2000) {
        const busy = fleet.find(({ id }) => pool.stats().instances.some((of) => of.instance === id && of.pending > 0))
        killed.push(busy?.id ?? 'none')
        busy?.kill()
      }
    }
    const acks = await Promise.all(answers)

    expect(killed).not.toContain('none')
    expect(new Set(killed).size).toBe(2)
    expect(ledger.applied).toEqual(keys)
    expect(acks.map(({ value }) => value)).toEqual(keys.map((_, index) => index + 1))
    expect(stream.stats()).toMatchObject({ offered: 3000, succeeded: 3000, failed: 0, pending: 0 })
    expect(stream.stats().lost).toBeGreaterThanOrEqual(2)
    expect(balancer.stats()).toMatchObject({ pending: 0 })
  })

  it('sends elsewhere, under the same ids, what an instance had applied and not acknowledged', async () => {
    const ledger = new Ledger()
    const fleet = await startFleet(3, ledger)
    const first = fleet[0] as Member
    first.manner = 'swallow'
    const { pool } = balanced(fleet)
    const stream = streamOver(pool)
    const answers = ['a', 'b', 'c'].map((key) => stream.send(key))
    await vi.waitFor(() => expect(ledger.received).toBe(3))

    first.kill()

    expect((await Promise.all(answers)).map(({ value }) => value)).toEqual([1, 2, 3])
    expect(ledger).toMatchObject({ applied: ['a', 'b', 'c'], received: 6 })
    expect(stream.stats()).toMatchObject({ resent: 3, lost: 1 })
  })

  it.each(['least_conn', 'consistent_hash'] as const)(
    'leaves a dead instance under %s, which would choose it again and again, without any ejection',
    async (algorithm) => {
      const ledger = new Ledger()
      const fleet = await startFleet(3, ledger)
      const { pool } = balanced(fleet, { balancer: { algorithm } })
      const stream = new AckedStream<string, StreamMessage, StreamAck>(
        () => pool.openStream('increments', { key: 'user:1' }),
        {
          message: (key, id) => ({ id, key }),
          idOf: ({ id }) => id,
          retry: { attempts: 10, delayMs: 5, maxDelayMs: 5 },
        },
      )
      cleanUp(() => stream.close({ timeoutMs: 0 }))
      await stream.send('a')
      const busy = fleet.find(({ streams }) => streams > 0) as Member

      busy.kill()
      const acks = await Promise.all(['b', 'c'].map((key) => stream.send(key)))

      expect(acks.map(({ value }) => value)).toEqual([2, 3])
      expect(fleet.filter((member) => member !== busy).reduce((sum, { streams }) => sum + streams, 0)).toBe(1)
    },
  )

  it('leaves an instance that acknowledges nothing, which counts as its failure', async () => {
    const fleet = await startFleet(2)
    const [silent, alive] = fleet as [Member, Member]
    silent.manner = 'hang'
    const { pool, balancer } = balanced(fleet, { balancer: { ejection: { ...ejection, failureThreshold: 1 } } })
    const stream = streamOver(pool, { ackTimeoutMs: 50 })
    const failed = vi.fn()
    pool.on('failed', failed)

    expect(await stream.send('a')).toMatchObject({ value: 1 })

    expect([silent.streams, alive.streams]).toEqual([1, 1])
    await vi.waitFor(() => expect(silent.cancelled).toBe(1))
    expect(balancer.instances().map(({ state }) => state)).toEqual(['ejected', 'healthy'])
    expect(failed).toHaveBeenCalledExactlyOnceWith(
      expect.objectContaining({
        method: 'increments',
        instance: silent,
        error: expect.objectContaining({ statusName: 'DEADLINE_EXCEEDED', details: 'no acknowledgement for 50 ms' }),
      }),
    )
  })

  it('moves on when its instance leaves the list, after drainTimeoutMs', async () => {
    const ledger = new Ledger()
    const fleet = await startFleet(2, ledger)
    const [first, second] = fleet as [Member, Member]
    const list = new List([first])
    const { pool, balancer } = balanced(list, { pool: { drainTimeoutMs: 30 } })
    await balancer.start()
    const stream = streamOver(pool, { idleMs: 60_000 })
    await stream.send('a')
    first.manner = 'hang'
    const late = stream.send('b')

    list.set([second])

    expect(await late).toMatchObject({ value: 2 })
    expect([first.streams, second.streams]).toEqual([1, 1])
    await vi.waitFor(() => expect(pool.stats().draining).toBe(0))
  })

  it('waits while there is no instance at all', async () => {
    const fleet = await startFleet(1)
    const list = new List(fleet)
    const { pool, balancer } = balanced(list)
    const stream = streamOver(pool)
    const lost = vi.fn()
    stream.on('lost', lost)

    const answer = stream.send('a')
    await vi.waitFor(() => expect(lost).toHaveBeenCalled())
    expect(lost.mock.calls[0]?.[0]).toMatchObject({ error: { code: 'ERR_NO_INSTANCE' }, unacknowledged: 1 })
    await balancer.start()

    expect(await answer).toMatchObject({ value: 1 })
  })
})

describe('openStream of a balanced pool', () => {
  it('is in flight at the balancer until the server begins to answer, in the books until it ends', async () => {
    const fleet = await startFleet(1)
    const member = fleet[0] as Member
    const { pool, balancer } = balanced(fleet)
    member.manner = 'hang'

    const stream = pool.openStream('increments')
    stream.on('data', () => undefined)
    stream.write({ id: '1', key: 'a' })
    await vi.waitFor(() => expect(member.streams).toBe(1))
    expect(balancer.instances()[0]?.inFlight).toBe(1)
    member.manner = 'answer'
    stream.write({ id: '2', key: 'a' })
    await vi.waitFor(() => expect(balancer.instances()[0]?.inFlight).toBe(0))

    expect(balancer.stats()).toMatchObject({ succeeded: 1, failed: 0 })
    expect(pool.stats()).toMatchObject({ offered: 1, pending: 1 })
    stream.end()
    await pool.flush()
    expect(pool.stats()).toMatchObject({ offered: 1, succeeded: 1, pending: 0 })
  })

  it('does not let the probe of a recovering instance fail because the stream goes on', async () => {
    const fleet = await startFleet(2)
    const member = fleet[0] as Member
    const { pool, balancer } = balanced(fleet, {
      balancer: { ejection: { ...ejection, failureThreshold: 1, recoveryTimeoutMs: 30, probeTimeoutMs: 60 } },
    })
    const readmitted = vi.fn()
    const ejected = vi.fn()
    balancer.on('readmitted', readmitted)
    balancer.on('ejected', ejected)
    member.manner = status.UNAVAILABLE
    await expect(pool.call('get', { key: 'a' })).rejects.toThrow()
    expect(ejected).toHaveBeenCalledTimes(1)
    member.manner = 'answer'

    const streams: { cancel(): void }[] = []
    await vi.waitFor(() => {
      const stream = pool.openStream('increments')
      stream.write({ id: `${streams.length}`, key: 'a' })
      streams.push(stream)
      expect(readmitted).toHaveBeenCalledTimes(1)
    })
    await new Promise((resolve) => setTimeout(resolve, 120))

    expect(ejected).toHaveBeenCalledTimes(1)
    expect(balancer.instances().map(({ state }) => state)).toEqual(['healthy', 'healthy'])
    for (const stream of streams) stream.cancel()
    await pool.flush()
  })

  it('says how a stream ended: by the server’s status, by the caller, by nobody', async () => {
    const fleet = await startFleet(1)
    const member = fleet[0] as Member
    const { pool, balancer } = balanced(fleet)
    const failed = vi.fn()
    pool.on('failed', failed)
    member.manner = status.INVALID_ARGUMENT
    const mistaken = pool.openStream('increments')
    mistaken.write({ id: '1', key: 'a' })
    await pool.flush()
    expect(balancer.stats()).toMatchObject({ succeeded: 1, failed: 0 })

    member.manner = status.INTERNAL
    const broken = pool.openStream('increments')
    broken.write({ id: '1', key: 'a' })
    await pool.flush()
    expect(balancer.stats()).toMatchObject({ succeeded: 1, failed: 1 })

    member.manner = 'hang'
    pool.openStream('increments').cancel()
    const controller = new AbortController()
    pool.openStream('increments', { signal: controller.signal })
    controller.abort('enough')
    await pool.flush()

    expect(balancer.stats()).toMatchObject({ succeeded: 1, failed: 1, ignored: 2, pending: 0 })
    expect(pool.stats()).toMatchObject({ offered: 4, failed: 2, aborted: 2, pending: 0 })
    expect(failed.mock.calls.map(([{ error }]) => error.statusName)).toEqual(['INVALID_ARGUMENT', 'INTERNAL'])
  })

  it('goes to a failing instance when there is no other', async () => {
    const dead = { id: 'dead', address: `127.0.0.1:${await freePort()}` }
    const { pool, balancer } = balanced([dead])
    await expect(pool.call('get', { key: 'a' })).rejects.toMatchObject({ statusName: 'UNAVAILABLE' })
    expect(pool.poolOf(dead).failing).toBe(true)

    const stream = pool.openStream('increments')
    stream.on('data', () => undefined)

    await pool.flush()
    expect(pool.stats()).toMatchObject({ offered: 2, failed: 2 })
    expect(balancer.stats().pending).toBe(0)
  })

  it('refuses what is wrong, and gives the instance back', async () => {
    const fleet = await startFleet(1)
    const { pool, balancer } = balanced(fleet)

    expect(() => pool.openStream('nope' as 'increments')).toThrow(/method must be the name of a method of the client/)
    expect(() => pool.openStream('increments', { key: 7 as never })).toThrow(/key must be a string, got 7/)
    expect(() => pool.openStream('increments', { timeoutMs: 0 })).toThrow(/timeoutMs must be a number/)
    expect(() => pool.openStream('increments', { signal: AbortSignal.abort(new Error('late')) })).toThrow('late')
    const { pool: empty } = balanced([])
    expect(() => empty.openStream('increments')).toThrow(expect.objectContaining({ code: 'ERR_NO_INSTANCE' }))

    expect(balancer.stats()).toMatchObject({ pending: 0, ignored: 1 })
    expect(pool.stats()).toMatchObject({ offered: 4, rejected: 4, pending: 0, attempts: 0 })
    expect(empty.stats()).toMatchObject({ offered: 1, rejected: 1 })
  })
})

describe('a lease of a balanced pool', () => {
  it('lends a channel of an instance, and judges the instance by the outcome that is told', async () => {
    const fleet = await startFleet(2)
    const { pool, balancer } = balanced(fleet, { balancer: { ejection: { ...ejection, failureThreshold: 1 } } })

    const bad = pool.lease()
    bad.release('failure')
    bad.release('success')
    {
      using good = pool.lease()
      expect(good.instance).toBe(fleet[1])
      expect(good.channel).toBe(0)
      expect(good.client).toBe(pool.poolOf(fleet[1] as Member).lease().client)
      expect(pool.stats().pending).toBe(1)
    }

    expect(balancer.instances().map(({ state }) => state)).toEqual(['ejected', 'healthy'])
    expect(pool.stats()).toMatchObject({ offered: 2, failed: 1, aborted: 1, pending: 0 })
    expect(balancer.stats()).toMatchObject({ failed: 1, ignored: 1, pending: 0 })
  })

  it('is given up when the instance has left and drainTimeoutMs has passed', async () => {
    const fleet = await startFleet(2)
    const [first, second] = fleet as [Member, Member]
    const list = new List([first])
    const { pool, balancer } = balanced(list, { pool: { drainTimeoutMs: 20 } })
    await balancer.start()
    const cancel = vi.fn()
    const lease = pool.lease({ cancel })

    list.set([second])

    await vi.waitFor(() => expect(cancel).toHaveBeenCalledTimes(1))
    expect(pool.stats()).toMatchObject({ offered: 1, failed: 1, pending: 0 })
    expect(balancer.stats().pending).toBe(0)
    lease.release()
    expect(pool.stats()).toMatchObject({ offered: 1, failed: 1, pending: 0 })
  })

  it('refuses what is wrong', async () => {
    const fleet = await startFleet(1)
    const { pool, balancer } = balanced(fleet)

    expect(() => pool.lease(7 as never)).toThrow(/options must be an object/)
    expect(() => pool.lease({ cancel: 7 as never })).toThrow(/cancel must be a function/)
    expect(() => pool.lease({ key: null as never })).toThrow(/key must be a string/)
    using lease = pool.lease()
    expect(() => lease.release('maybe' as never)).toThrow(/outcome must be 'success', 'failure' or 'ignore'/)

    expect(balancer.stats().pending).toBe(1)
    expect(pool.stats()).toMatchObject({ offered: 4, rejected: 3, pending: 1 })
  })
})
