import { Metadata, status } from '@grpc/grpc-js'
import { isSpillwayError } from 'spillway'
import { GrpcBalancedPool, type GrpcCallError } from 'spillway/grpc'
import { describe, expect, it, vi } from 'vitest'
import { freePort } from '../../servers/free-port.js'
import { clientOf } from './support/counter-service.js'
import { balanced, type CounterPool, ejection, startFleet } from './support/fleet.js'
import { cleanUp, tidyUp } from './support/tidy.js'

tidyUp()

const failure = (promise: Promise<unknown>): Promise<GrpcCallError> =>
  promise.then(
    () => Promise.reject(new Error('expected a rejection')),
    (error: GrpcCallError) => error,
  )

function booksOf(pool: CounterPool) {
  const { offered, succeeded, failed, rejected, aborted, pending } = pool.stats()
  expect(offered).toBe(succeeded + failed + rejected + aborted + pending)
  return { offered, succeeded, failed, rejected, aborted, pending }
}

const get = { key: 'a' }

describe('balanced calls', () => {
  it('go to all instances in turn, each over a pool of its own', async () => {
    const fleet = await startFleet(3)
    const { pool } = balanced(fleet)

    const answers = await Promise.all(Array.from({ length: 30 }, () => pool.call('get', get)))

    expect(fleet.map(({ calls }) => calls)).toEqual([10, 10, 10])
    expect(answers.map(({ value }) => value).sort()).toEqual([
      ...Array(10).fill(1),
      ...Array(10).fill(2),
      ...Array(10).fill(3),
    ])
    expect(pool.stats().instances).toMatchObject(
      fleet.map(({ id, address }) => ({
        instance: id,
        address,
        state: 'open',
        succeeded: 10,
        channels: [{ calls: 10 }],
      })),
    )
    expect(booksOf(pool)).toMatchObject({ offered: 30, succeeded: 30 })
    expect(pool.stats()).toMatchObject({ attempts: 30, draining: 0 })
  })

  it('go to the one instance that their key stands for', async () => {
    const fleet = await startFleet(3)
    const { pool } = balanced(fleet, { balancer: { algorithm: 'consistent_hash' } })

    for (let i = 0; i < 10; i++) await pool.call('get', get, { key: 'user:1' })

    expect(fleet.map(({ calls }) => calls).sort()).toEqual([0, 0, 10])
  })

  it('are one attempt by default, even where nothing was done', async () => {
    const dead = { id: 'dead', address: `127.0.0.1:${await freePort()}` }
    const [alive] = await startFleet(1)
    const { pool } = balanced([dead, alive as typeof dead])

    const error = await failure(pool.call('get', get))

    expect(error).toMatchObject({ statusName: 'UNAVAILABLE', outcomeUnknown: false, address: dead.address })
    expect(alive?.calls).toBe(0)
    expect(pool.stats().attempts).toBe(1)
  })

  it('are tried elsewhere when nothing was done', async () => {
    const dead = { id: 'dead', address: `127.0.0.1:${await freePort()}` }
    const [alive] = await startFleet(1)
    const { pool } = balanced([dead, alive as typeof dead])

    expect(await pool.call('get', get, { attempts: 2 })).toEqual({ value: 1 })

    expect(booksOf(pool)).toMatchObject({ offered: 1, succeeded: 1, failed: 0 })
    expect(pool.stats().attempts).toBe(2)
  })

  it('that may have been done are tried again only where they are idempotent', async () => {
    const fleet = await startFleet(2)
    const { pool } = balanced(fleet)
    const [first, second] = fleet
    if (first !== undefined) first.manner = status.UNAVAILABLE

    const error = await failure(pool.call('get', get, { attempts: 2 }))
    expect(error).toMatchObject({ statusName: 'UNAVAILABLE', outcomeUnknown: true })
    expect(second?.calls).toBe(0)

    await pool.call('get', get)
    expect(await pool.call('get', get, { attempts: 2, idempotent: true })).toEqual({ value: 2 })
    expect(fleet.map(({ calls }) => calls)).toEqual([2, 2])
  })

  it('are not tried again, idempotent or not, where retryable says no or the error does', async () => {
    const fleet = await startFleet(2)
    for (const member of fleet) member.manner = status.NOT_FOUND
    const { pool } = balanced(fleet)

    await failure(pool.call('get', get, { attempts: 2, idempotent: true }))
    for (const member of fleet) member.manner = status.UNAVAILABLE
    await failure(pool.call('get', get, { attempts: 2, idempotent: true, retryable: () => false }))
    const throwing = () => {
      throw new Error('no idea')
    }
    await failure(pool.call('get', get, { attempts: 2, idempotent: true, retryable: throwing }))

    expect(fleet.map(({ calls }) => calls)).toEqual([2, 1])
  })

  it('are tried again where retryable says so, but never what may have been done and is not idempotent', async () => {
    const fleet = await startFleet(2)
    for (const member of fleet) member.manner = status.NOT_FOUND
    const { pool } = balanced(fleet)

    await failure(pool.call('get', get, { attempts: 2, retryable: () => true }))
    expect(pool.stats().attempts).toBe(2)
    for (const member of fleet) member.manner = status.INTERNAL
    await failure(pool.call('get', get, { attempts: 2, retryable: () => true }))
    expect(pool.stats().attempts).toBe(3)
  })

  it('leave their outcome open when an earlier attempt may have been done, whatever the last one says', async () => {
    const dead = { id: 'dead', address: `127.0.0.1:${await freePort()}` }
    const [alive] = await startFleet(1)
    if (alive !== undefined) alive.manner = status.UNAVAILABLE
    const { pool } = balanced([alive as typeof dead, dead])

    const error = await failure(pool.call('get', get, { attempts: 2, idempotent: true }))

    expect(error).toMatchObject({
      name: 'GrpcCallError',
      statusName: 'UNAVAILABLE',
      address: dead.address,
      outcomeUnknown: true,
    })
    expect(error.message).toMatch(/^grpc-balanced-pool: get to 127\.0\.0\.1:\d+ failed: UNAVAILABLE \(14\)/)
  })

  it('carry deadline and metadata at each attempt', async () => {
    const fleet = await startFleet(1)
    const [member] = fleet
    if (member !== undefined) member.manner = 'hang'
    const { pool } = balanced(fleet)
    const metadata = new Metadata()
    metadata.set('tenant', 'acme')

    const error = await failure(pool.call('get', get, { timeoutMs: 40, metadata }))

    expect(error).toMatchObject({ statusName: 'DEADLINE_EXCEEDED', outcomeUnknown: true })
    await vi.waitFor(() => expect(member?.cancelled).toBe(1))
  })

  it('that hang are cut off by their deadline, and their instance by its breaker', async () => {
    const fleet = await startFleet(3)
    const [hanging] = fleet
    if (hanging !== undefined) hanging.manner = 'hang'
    const { pool, balancer } = balanced(fleet, { balancer: { ejection: { ...ejection, recoveryTimeoutMs: 60_000 } } })
    await pool.warmUp()

    const answers = await Promise.allSettled(
      Array.from({ length: 9 }, () => pool.call('get', get, { attempts: 2, idempotent: true, timeoutMs: 400 })),
    )
    expect(answers.every(({ status: outcome }) => outcome === 'fulfilled')).toBe(true)
    expect(hanging?.calls).toBe(3)
    await Promise.all(Array.from({ length: 20 }, () => pool.call('get', get, { timeoutMs: 5000 })))

    expect(hanging?.calls).toBe(3)
    expect(balancer.instances().map(({ state }) => state)).toEqual(['ejected', 'healthy', 'healthy'])
  })

  it('go on while one of three instances is killed under load, and come back to it', async () => {
    const fleet = await startFleet(3)
    const { pool, balancer } = balanced(fleet, { balancer: { ejection } })
    const events: string[] = []
    balancer.on('ejected', ({ instance }) => events.push(`ejected ${instance.id}`))
    balancer.on('readmitted', ({ instance }) => events.push(`readmitted ${instance.id}`))
    await pool.warmUp()
    let failed = 0
    let stop = false
    const caller = async (): Promise<void> => {
      while (!stop) {
        await pool.call('get', get, { attempts: 3, idempotent: true, timeoutMs: 2000 }).catch(() => failed++)
      }
    }
    const callers = Array.from({ length: 4 }, caller)
    const victim = fleet[1] as (typeof fleet)[number]
    await vi.waitFor(() => expect(victim.calls).toBeGreaterThan(20))

    victim.kill()
    await vi.waitFor(() => expect(events).toContain('ejected instance-2'))
    const before = fleet[0]?.calls ?? 0
    await vi.waitFor(() => expect(fleet[0]?.calls).toBeGreaterThan(before + 20))
    await victim.restart()
    const callsOfVictim = victim.calls
    await vi.waitFor(() => expect(events).toContain('readmitted instance-2'), 5000)
    await vi.waitFor(() => expect(victim.calls).toBeGreaterThan(callsOfVictim + 20))
    stop = true
    await Promise.all(callers)

    expect(failed).toBe(0)
    booksOf(pool)
  })

  it('whose fault is the caller’s own eject nobody', async () => {
    const fleet = await startFleet(2)
    for (const member of fleet) member.manner = status.INVALID_ARGUMENT
    const { pool, balancer } = balanced(fleet, { balancer: { ejection } })

    await Promise.allSettled(Array.from({ length: 20 }, () => pool.call('get', get)))

    expect(balancer.instances().map(({ state }) => state)).toEqual(['healthy', 'healthy'])
    expect(fleet.map(({ calls }) => calls)).toEqual([10, 10])
  })
})

describe('a balanced call', () => {
  it('that is aborted rejects with the reason at once, is cancelled at the server, and counts against nobody', async () => {
    const fleet = await startFleet(1)
    const [member] = fleet
    if (member !== undefined) member.manner = 'hang'
    const { pool, balancer } = balanced(fleet, { balancer: { ejection: { ...ejection, failureThreshold: 1 } } })
    const controller = new AbortController()
    const remove = vi.spyOn(controller.signal, 'removeEventListener')
    const answer = pool.call('get', get, { signal: controller.signal, attempts: 3, idempotent: true })
    await vi.waitFor(() => expect(member?.calls).toBe(1))

    controller.abort(new Error('enough'))

    await expect(answer).rejects.toThrow('enough')
    await vi.waitFor(() => expect(member?.cancelled).toBe(1))
    expect(remove).toHaveBeenCalled()
    expect(booksOf(pool)).toMatchObject({ offered: 1, aborted: 1, pending: 0 })
    expect(balancer.instances()[0]).toMatchObject({ state: 'healthy', inFlight: 0 })
    expect(pool.stats().instances[0]).toMatchObject({ aborted: 1, pending: 0 })
  })

  it('with no instance to go to is refused', async () => {
    const { pool } = balanced([])
    const failed = vi.fn()
    pool.on('failed', failed)

    const error = await failure(pool.call('get', get))

    expect(isSpillwayError(error, 'ERR_NO_INSTANCE')).toBe(true)
    expect(booksOf(pool)).toMatchObject({ offered: 1, rejected: 1 })
    expect(failed).not.toHaveBeenCalled()
  })

  it('that failed is told with its instance', async () => {
    const fleet = await startFleet(1)
    const [member] = fleet
    if (member !== undefined) member.manner = status.NOT_FOUND
    const { pool } = balanced(fleet)
    const failed = vi.fn()
    pool.on('failed', failed)

    const error = await failure(pool.call('get', get))

    expect(failed).toHaveBeenCalledExactlyOnceWith({
      method: 'get',
      instance: member,
      attempts: 1,
      error,
      durationMs: expect.any(Number),
    })
  })

  it('rejects with what makeClient threw, and goes elsewhere where it may', async () => {
    const [member] = await startFleet(1)
    const broken = { id: 'broken', address: 'nowhere' }
    const { balancer } = balanced([broken, member as typeof broken])
    const picky = new GrpcBalancedPool(balancer, (instance, options) => {
      if (instance === broken) throw new Error('no credentials for it')
      return clientOf(instance.address)(options)
    })
    cleanUp(() => picky.close({ timeoutMs: 0 }))

    await expect(picky.call('get', get)).rejects.toThrow('no credentials for it')
    await picky.call('get', get)
    expect(await picky.call('get', get, { attempts: 2 })).toEqual({ value: 1 })
  })

  it('that nobody looks at is no unhandled rejection', async () => {
    const fleet = await startFleet(1)
    const [member] = fleet
    if (member !== undefined) member.manner = status.NOT_FOUND
    const { pool } = balanced(fleet)
    void pool.call('get', get)

    expect(await pool.flush()).toEqual({ succeeded: 0, failed: 1, dropped: 0 })
  })
})
