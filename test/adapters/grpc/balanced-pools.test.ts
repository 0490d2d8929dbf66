import { LoadBalancer } from 'spillway'
import { GrpcBalancedPool, type GrpcBalancer } from 'spillway/grpc'
import { describe, expect, it, vi } from 'vitest'
import { freePort } from '../../servers/free-port.js'
import { clientOf } from './support/counter-service.js'
import { balanced, type CounterPool, type Instance, List, startFleet, startMember } from './support/fleet.js'
import { startRelay } from './support/relay.js'
import { cleanUp, tidyUp } from './support/tidy.js'

tidyUp()

const get = { key: 'a' }

/** What became of the pools, in order. */
function storyOf(pool: CounterPool): string[] {
  const story: string[] = []
  pool.on('opened', ({ instance, address }) => story.push(`opened ${instance.id} at ${address}`))
  pool.on('retired', ({ instance, reason }) => story.push(`retired ${instance.id}: ${reason}`))
  pool.on('closed', ({ instance, abandoned }) => story.push(`closed ${instance.id}, ${abandoned} abandoned`))
  return story
}

describe('the pools of a balanced pool', () => {
  it('are made at the first call to their instance, with one channel that grows under load', async () => {
    const fleet = await startFleet(2)
    const { pool } = balanced(fleet)
    const story = storyOf(pool)
    expect(pool.stats().instances).toEqual([])

    await pool.call('get', get)

    expect(story).toEqual([`opened instance-1 at ${fleet[0]?.address}`])
    expect(pool.stats().instances).toMatchObject([
      { instance: 'instance-1', name: 'grpc-balanced-pool/instance-1', channels: [{ channel: 0 }] },
    ])
    const [member] = fleet
    if (member !== undefined) member.manner = 'hang'
    const controller = new AbortController()
    const { pool: busy } = balanced(fleet.slice(0, 1), { pool: { channels: { max: 2, maxStreamsPerChannel: 3 } } })
    const calls = Array.from({ length: 8 }, () => busy.call('get', get, { signal: controller.signal }))
    expect(busy.stats().instances[0]?.channels).toHaveLength(2)
    controller.abort('done')
    await Promise.allSettled(calls)
  })

  it('close once an instance has left the list and its calls are settled', async () => {
    const fleet = await startFleet(2)
    const [first, second] = fleet as [(typeof fleet)[number], (typeof fleet)[number]]
    const relay = await startRelay(first.port)
    cleanUp(() => relay.stop())
    const leaving = { id: 'leaving', address: relay.address }
    const list = new List([leaving])
    const { pool, balancer } = balanced(list)
    await balancer.start()
    const story = storyOf(pool)
    first.manner = 'hang'
    const controller = new AbortController()
    const answer = pool.call('get', get, { signal: controller.signal })
    await vi.waitFor(() => expect(first.calls).toBe(1))

    list.set([second])

    expect(pool.stats()).toMatchObject({
      draining: 1,
      instances: [{ instance: 'leaving', state: 'draining', pending: 1 }],
    })
    expect(await pool.call('get', get)).toEqual({ value: 2 })
    expect(relay.open).toBe(1)
    controller.abort('done')
    await expect(answer).rejects.toBe('done')
    await vi.waitFor(() => expect(pool.stats().draining).toBe(0))
    await vi.waitFor(() => expect(relay.open).toBe(0))
    expect(story).toEqual([
      `opened leaving at ${relay.address}`,
      'retired leaving: left',
      `opened instance-2 at ${second.address}`,
      'closed leaving, 0 abandoned',
    ])
  })

  it('of instances that left are cut off after drainTimeoutMs', async () => {
    const [first, second] = await startFleet(2)
    if (first === undefined || second === undefined) return
    first.manner = 'hang'
    const list = new List([first])
    const { pool, balancer } = balanced(list, { pool: { drainTimeoutMs: 30, timeoutMs: 60_000 } })
    await balancer.start()
    const story = storyOf(pool)
    const once = pool.call('get', get)
    const twice = pool.call('get', get, { attempts: 2, idempotent: true })
    await vi.waitFor(() => expect(first.calls).toBe(2))

    list.set([second])

    await expect(once).rejects.toMatchObject({ code: 'ERR_CLOSED', outcomeUnknown: true })
    expect(await twice).toEqual({ value: 2 })
    await vi.waitFor(() => expect(first.cancelled).toBe(2))
    expect(story).toContain('closed instance-1, 2 abandoned')
    expect(pool.stats()).toMatchObject({ offered: 2, succeeded: 1, failed: 1, pending: 0 })
  })

  it('are replaced when an id leads to another address: the old one drains, the new one is called', async () => {
    const [first, second] = await startFleet(2)
    if (first === undefined || second === undefined) return
    const list = new List([{ id: 'counter', address: first.address }])
    const { pool, balancer } = balanced(list)
    await balancer.start()
    const story = storyOf(pool)
    first.manner = 'hang'
    const controller = new AbortController()
    const old = pool.call('get', get, { signal: controller.signal })
    await vi.waitFor(() => expect(first.calls).toBe(1))

    list.set([{ id: 'counter', address: second.address }])

    expect(await pool.call('get', get)).toEqual({ value: 2 })
    expect(pool.stats().instances).toMatchObject([
      { instance: 'counter', address: second.address, state: 'open' },
      { instance: 'counter', address: first.address, state: 'draining', pending: 1 },
    ])
    controller.abort('done')
    await expect(old).rejects.toBe('done')
    await vi.waitFor(() => expect(pool.stats().draining).toBe(0))
    expect(story.map((line) => line.replace(/ at .*/, ''))).toEqual([
      'opened counter',
      'retired counter: moved',
      'opened counter',
      'closed counter, 0 abandoned',
    ])
  })

  it('stay when a new list has the same addresses in new objects', async () => {
    const fleet = await startFleet(1)
    const { id, address } = fleet[0] as Instance
    const list = new List([{ id, address }])
    const { pool, balancer } = balanced(list)
    await balancer.start()
    await pool.call('get', get)
    const before = pool.poolOf({ id, address })

    for (let i = 0; i < 3; i++) {
      list.set([{ id, address }])
      await pool.call('get', get)
    }

    expect(pool.poolOf({ id, address })).toBe(before)
    expect(before.stats()).toMatchObject({ offered: 4, succeeded: 4 })
  })

  it('go by what addressOf says', async () => {
    const [first, second] = await startFleet(2)
    if (first === undefined || second === undefined) return
    const list = new List([{ ...first, id: 'counter' }])
    const { pool, balancer } = balanced(list, { pool: { addressOf: () => 'one and the same' } })
    await balancer.start()
    await pool.call('get', get)

    list.set([{ id: 'counter', address: second.address }])

    // The pool takes it for the same place, and its connection leads where it led.
    expect(await pool.call('get', get)).toEqual({ value: 1 })
  })

  it.each([
    [{ id: 'a', address: '10.0.0.1', port: 50_051 }, '10.0.0.1:50051'],
    [{ id: 'a', host: 'counter', port: 1 }, 'counter:1'],
    [{ id: 'a', address: '10.0.0.1:7', port: 7 }, '10.0.0.1:7'],
    [{ id: 'a', url: 'dns:counter:1' }, 'dns:counter:1'],
    [{ id: '10.0.0.1:50051' }, '10.0.0.1:50051'],
  ])('take %j to be at %s', async (instance, address) => {
    const balancer = new LoadBalancer([instance])
    cleanUp(() => balancer.close())
    const pool = new GrpcBalancedPool(balancer, (_instance, options) => clientOf('127.0.0.1:1')(options))
    cleanUp(() => pool.close())

    pool.poolOf(instance)

    expect(pool.stats().instances).toMatchObject([{ address }])
  })

  it('are none too many after a thousand changes of the list under load', { timeout: 60_000 }, async () => {
    const fleet = await startFleet(3)
    const [spare] = await Promise.all([startMember('spare', 4)])
    const list = new List(fleet)
    const { pool, balancer } = balanced(list, { pool: { channels: 1 } })
    await balancer.start()
    const made = vi.fn()
    const gone = vi.fn()
    pool.on('opened', made)
    pool.on('closed', gone)
    const calls: Promise<unknown>[] = []
    let failures = 0

    for (let i = 0; i < 1000; i++) {
      const some = fleet.filter((_, index) => (i >> index) % 2 === 0)
      const renamed = { id: `generation-${i}`, address: (spare as Instance).address }
      const moved = { id: 'moving', address: (fleet[i % 3] as Instance).address }
      list.set([...some, renamed, moved])
      calls.push(pool.call('get', get).catch(() => failures++))
      if (i % 20 === 0) await Promise.all(calls.splice(0))
    }
    await Promise.all(calls)
    list.set(fleet.slice(0, 1))
    await vi.waitFor(() => expect(pool.stats().draining).toBe(0))

    expect(failures).toBe(0)
    expect(pool.stats().instances.length).toBeLessThanOrEqual(1)
    expect(made.mock.calls.length).toBeGreaterThan(300)
    expect(made.mock.calls.length - gone.mock.calls.length).toBe(pool.stats().instances.length)
    await pool.close()
    expect(pool.stats()).toMatchObject({ offered: 1000, succeeded: 1000, pending: 0, draining: 0, instances: [] })
  })

  it('of an instance that had left before it was called last no longer than the call', async () => {
    const fleet = await startFleet(2)
    const [first, second] = fleet as readonly Instance[] as [Instance, Instance]
    const list = new List([first])
    const { pool, balancer } = balanced(list)
    await balancer.start()
    const lease = balancer.pick()
    list.set([second])

    const answer = pool.poolOf(lease.instance)
    lease.release()

    await vi.waitFor(() => expect(pool.stats()).toMatchObject({ draining: 0, instances: [] }))
    await expect(answer.call('get', get)).rejects.toMatchObject({ code: 'ERR_CLOSED' })
  })
})

describe('warmUp of a balanced pool', () => {
  it('waits for the list and connects all channels of all instances', async () => {
    const fleet = await startFleet(3)
    const list = new List(fleet)
    const { pool } = balanced(list, { pool: { channels: 2 } })

    await pool.warmUp({ deadlineMs: 5000 })

    expect(pool.stats().instances.flatMap(({ channels }) => channels.map(({ state }) => state))).toEqual(
      Array(6).fill('ready'),
    )
  })

  it('names each instance and channel that isn’t ready: one that is silent, and one that isn’t there', async () => {
    const [member] = await startFleet(1)
    const silent = await startRelay()
    cleanUp(() => silent.stop())
    const dead = `127.0.0.1:${await freePort()}`
    const instances = [member as Instance, { id: 'silent', address: silent.address }, { id: 'dead', address: dead }]
    const { pool } = balanced(instances, { pool: { name: 'counters' } })

    const error = await pool.warmUp({ deadlineMs: 200 }).catch((reason: unknown) => reason)

    expect(error).toMatchObject({ code: 'ERR_TIMEOUT', outcomeUnknown: false })
    expect((error as Error).message).toMatch(
      new RegExp(
        `^counters isn't ready after 200 ms: channel 0 of instance silent to ${silent.address} is connecting, ` +
          `channel 0 of instance dead to ${dead} is (?:transient-failure|connecting|idle)$`,
      ),
    )
  })

  it('is content with minInstances', async () => {
    const [member] = await startFleet(1)
    const silent = await startRelay()
    cleanUp(() => silent.stop())
    const { pool } = balanced([member as Instance, { id: 'silent', address: silent.address }])

    await pool.warmUp({ deadlineMs: 5000, minInstances: 1 })

    expect(pool.stats().instances.map(({ channels }) => channels[0]?.state)).toEqual(['ready', 'connecting'])
  })

  it('misses nobody who leaves meanwhile', async () => {
    const [member] = await startFleet(1)
    const silent = await startRelay()
    cleanUp(() => silent.stop())
    const list = new List([member as Instance, { id: 'silent', address: silent.address }])
    const { pool } = balanced(list)
    const warm = pool.warmUp({ deadlineMs: 10_000 })
    await vi.waitFor(() => expect(pool.stats().instances).toHaveLength(2))

    list.set([member as Instance])

    await warm
  })

  it('stops when told to, on close, at its deadline without a list, and with an empty one', async () => {
    const silent = await startRelay()
    cleanUp(() => silent.stop())
    const { pool } = balanced([{ id: 'silent', address: silent.address }])
    const controller = new AbortController()
    const aborted = pool.warmUp({ signal: controller.signal })
    const closed = pool.warmUp()
    controller.abort(new Error('enough'))
    await expect(aborted).rejects.toThrow('enough')
    await pool.close()
    await expect(closed).rejects.toMatchObject({ code: 'ERR_CLOSED', message: 'grpc-balanced-pool is closed' })
    await expect(pool.warmUp()).rejects.toMatchObject({ code: 'ERR_CLOSED' })

    const never = new LoadBalancer<Instance>({ watch: () => undefined }, { refreshTimeoutMs: 60_000 })
    cleanUp(() => never.close({ timeoutMs: 0 }))
    const waiting = new GrpcBalancedPool(never, ({ address }, options) => clientOf(address)(options))
    cleanUp(() => waiting.close())
    await expect(waiting.warmUp({ deadlineMs: 20 })).rejects.toThrow(
      "grpc-balanced-pool isn't ready after 20 ms: there is no list of instances yet",
    )
    const { pool: empty } = balanced([])
    await expect(empty.warmUp()).rejects.toMatchObject({ code: 'ERR_NO_INSTANCE' })
    await expect(empty.warmUp({ deadlineMs: -1 })).rejects.toMatchObject({ code: 'ERR_OPTION' })
    await expect(empty.warmUp({ minInstances: 0 })).rejects.toMatchObject({ code: 'ERR_OPTION' })
  })

  it('makes no pools once it was given up, though the list comes after all', async () => {
    const [member] = await startFleet(1)
    let listIsThere: (list: readonly Instance[]) => void = () => undefined
    const late = new LoadBalancer<Instance>(() => new Promise((resolve) => (listIsThere = resolve)))
    cleanUp(() => late.close({ timeoutMs: 0 }))
    const make = vi.fn(({ address }: Instance, options: object) => clientOf(address)(options))
    const pool = new GrpcBalancedPool(late, make)
    const warm = pool.warmUp()
    await pool.close()
    await expect(warm).rejects.toMatchObject({ code: 'ERR_CLOSED' })

    listIsThere([member as Instance])
    await late.start()
    await new Promise((resolve) => setImmediate(resolve))

    expect(make).not.toHaveBeenCalled()
  })

  it('rejects with what the source failed with', async () => {
    const broken = new LoadBalancer<Instance>(() => Promise.reject(new Error('no such service')))
    cleanUp(() => broken.close({ timeoutMs: 0 }))
    const pool = new GrpcBalancedPool(broken, ({ address }, options) => clientOf(address)(options))
    cleanUp(() => pool.close())

    await expect(pool.warmUp({ deadlineMs: 5000 })).rejects.toThrow('no such service')
  })
})

describe('close of a balanced pool', () => {
  it('lets calls in flight finish, closes the pools it made, and leaves the balancer alone', async () => {
    const fleet = await startFleet(2)
    const relay = await startRelay(fleet[0]?.port)
    cleanUp(() => relay.stop())
    const { pool, balancer } = balanced([{ id: 'a', address: relay.address }])
    const answer = pool.call('get', get)

    const closing = pool.close()
    await expect(pool.call('get', get)).rejects.toMatchObject({ code: 'ERR_CLOSED' })
    expect(() => pool.openStream('increments')).toThrow(/is closed/)
    expect(() => pool.lease()).toThrow(/is closed/)
    expect(() => pool.poolOf({ id: 'a', address: relay.address })).toThrow(/is closed/)

    expect(await answer).toEqual({ value: 1 })
    expect(await closing).toEqual({ drained: true, abandoned: 0 })
    await vi.waitFor(() => expect(relay.open).toBe(0))
    expect(pool.stats()).toMatchObject({ offered: 4, succeeded: 1, rejected: 3, pending: 0, instances: [] })
    using lease = balancer.pick()
    expect(lease.instance.id).toBe('a')
  })

  it('gives up at its deadline what is left, retries included', async () => {
    const fleet = await startFleet(2)
    for (const member of fleet) member.manner = 'hang'
    const { pool, balancer } = balanced(fleet)
    const cancel = vi.fn()
    const answer = pool.call('get', get, { attempts: 5, idempotent: true })
    const stream = pool.openStream('increments')
    stream.write({ id: '1', key: 'a' })
    pool.lease({ cancel })
    await vi.waitFor(() => expect(fleet[0]?.calls).toBe(1))
    await vi.waitFor(() => expect(fleet[1]?.streams).toBe(1))

    expect(await pool.close({ timeoutMs: 20 })).toEqual({ drained: false, abandoned: 3 })

    await expect(answer).rejects.toMatchObject({ code: 'ERR_CLOSED', outcomeUnknown: true })
    expect(cancel).toHaveBeenCalledTimes(1)
    await vi.waitFor(() => expect(fleet.map(({ cancelled }) => cancelled)).toEqual([1, 1]))
    expect(fleet.map(({ calls }) => calls)).toEqual([1, 0])
    expect(pool.stats()).toMatchObject({ offered: 3, failed: 3, pending: 0, attempts: 3, instances: [] })
    await vi.waitFor(() => expect(balancer.instances().every(({ inFlight }) => inFlight === 0)).toBe(true))
  })

  it('waits for pools that drain', async () => {
    const fleet = await startFleet(2)
    const [first, second] = fleet as [(typeof fleet)[number], (typeof fleet)[number]]
    first.manner = 'hang'
    const list = new List([first])
    const { pool, balancer } = balanced(list)
    await balancer.start()
    const answer = pool.call('get', get, { timeoutMs: 80 })
    await vi.waitFor(() => expect(first.calls).toBe(1))
    list.set([second])

    const report = await pool.close()

    await expect(answer).rejects.toMatchObject({ statusName: 'DEADLINE_EXCEEDED' })
    expect(report).toEqual({ drained: true, abandoned: 0 })
    expect(pool.stats()).toMatchObject({ draining: 0, instances: [] })
  })

  it('follows the list no more, and makes no attempt that comes late', async () => {
    const fleet = await startFleet(1)
    const { balancer } = balanced(fleet)
    const off = vi.fn()
    let attemptLate: () => Promise<unknown> = () => Promise.resolve()
    const slow: GrpcBalancer<Instance> = {
      start: () => balancer.start(),
      pick: () => balancer.pick(),
      // One that waits before its attempt.
      run: (fn) =>
        new Promise((resolve, reject) => {
          attemptLate = async () => {
            await fn(fleet[0] as Instance, { signal: new AbortController().signal, attempt: 1 }).then(resolve, reject)
          }
        }),
      instances: () => balancer.instances(),
      on: () => off,
    }
    const make = vi.fn(({ address }: Instance, options: object) => clientOf(address)(options))
    const pool = new GrpcBalancedPool(slow, make)
    const answer = pool.call('get', get)

    expect(await pool.close({ timeoutMs: 0 })).toEqual({ drained: false, abandoned: 1 })
    await attemptLate()

    await expect(answer).rejects.toMatchObject({ code: 'ERR_CLOSED', outcomeUnknown: false })
    expect(off).toHaveBeenCalledTimes(1)
    expect(make).not.toHaveBeenCalled()
  })
})
