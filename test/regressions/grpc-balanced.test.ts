import { GrpcBalancedPool } from 'spillway/grpc'
import { describe, expect, it, vi } from 'vitest'
import { clientOf } from '../adapters/grpc/support/counter-service.js'
import { balanced, type Instance, List, startFleet } from '../adapters/grpc/support/fleet.js'
import { startRelay } from '../adapters/grpc/support/relay.js'
import { cleanUp, tidyUp } from '../adapters/grpc/support/tidy.js'

tidyUp()

async function silentInstance(id: string): Promise<Instance> {
  const relay = await startRelay()
  cleanUp(() => relay.stop())
  return { id, address: relay.address }
}

const outcomeOf = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => 'ready',
    (error) => error,
  )

describe('a warm-up of a balanced pool', () => {
  it('that asks for more instances than the list has waits for the list to grow', async () => {
    const fleet = await startFleet(2)
    const list = new List(fleet.slice(0, 1))
    const { pool } = balanced(list)
    let done = false
    const warm = pool.warmUp({ deadlineMs: 10_000, minInstances: 2 }).then(() => {
      done = true
    })
    await vi.waitFor(() => expect(pool.stats().instances[0]?.channels[0]?.state).toBe('ready'))
    await new Promise((resolve) => setImmediate(resolve))
    expect(done).toBe(false)

    list.set(fleet)

    await warm
    expect(pool.stats().instances).toHaveLength(2)
  })

  it('that asks for some instances waits for the first where the list is empty', async () => {
    const fleet = await startFleet(1)
    const list = new List([])
    const { pool, balancer } = balanced(list)
    const warm = outcomeOf(pool.warmUp({ deadlineMs: 10_000, minInstances: 1 }))
    await balancer.start()
    await new Promise((resolve) => setImmediate(resolve))

    list.set(fleet)

    expect(await warm).toBe('ready')
  })

  it('whose pool somebody closes by hand rejects with that', async () => {
    const silent = await silentInstance('a')
    const { pool } = balanced([silent])
    const warm = outcomeOf(pool.warmUp({ deadlineMs: 10_000 }))
    await vi.waitFor(() => expect(pool.stats().instances).toHaveLength(1))

    await pool.poolOf(silent).close()

    expect(await warm).toMatchObject({ code: 'ERR_CLOSED', message: 'grpc-balanced-pool/a is closed' })
  })

  it('that asks for more instances than there ever are says so at its deadline', async () => {
    const fleet = await startFleet(1)
    const { pool } = balanced(fleet)

    const warm = pool.warmUp({ deadlineMs: 300, minInstances: 2 })

    await expect(warm).rejects.toMatchObject({
      code: 'ERR_TIMEOUT',
      message: "grpc-balanced-pool isn't ready after 300 ms: the list has 1 of 2 instances",
    })
  })

  it('whose instances have all left connects to nobody, and says so', async () => {
    const list = new List([await silentInstance('a')])
    const { pool } = balanced(list)
    const warm = outcomeOf(pool.warmUp({ deadlineMs: 10_000 }))
    await vi.waitFor(() => expect(pool.stats().instances).toHaveLength(1))

    list.set([])
    list.set([])

    expect(await warm).toMatchObject({ code: 'ERR_NO_INSTANCE' })
  })

  it('follows an instance that moves meanwhile', async () => {
    const [member] = await startFleet(1)
    const list = new List([await silentInstance('a')])
    const { pool } = balanced(list)
    const warm = outcomeOf(pool.warmUp({ deadlineMs: 10_000 }))
    await vi.waitFor(() => expect(pool.stats().instances).toHaveLength(1))

    list.set([{ id: 'a', address: (member as Instance).address }])

    expect(await warm).toBe('ready')
  })

  it('content with some is content though no client can be made for another', async () => {
    const [member] = await startFleet(1)
    const broken = { id: 'broken', address: 'nowhere' }
    const { balancer } = balanced([broken, member as Instance])
    const pool = new GrpcBalancedPool(balancer, (instance: Instance, options) => {
      if (instance === broken) throw new Error('no credentials for it')
      return clientOf(instance.address)(options)
    })
    cleanUp(() => pool.close({ timeoutMs: 0 }))

    expect(await outcomeOf(pool.warmUp({ deadlineMs: 5000, minInstances: 1 }))).toBe('ready')
    expect(await outcomeOf(pool.warmUp({ deadlineMs: 20, minInstances: 2 }))).toMatchObject({
      message: "grpc-balanced-pool isn't ready after 20 ms: instance broken has no client: no credentials for it",
    })
    expect(await outcomeOf(pool.warmUp())).toMatchObject({ message: 'no credentials for it' })
  })
})

describe('the pools of a balanced pool', () => {
  it('are retired once each, though a listener changes the list meanwhile', async () => {
    const fleet = await startFleet(3)
    const [first, second, third] = fleet as readonly Instance[] as [Instance, Instance, Instance]
    const list = new List(fleet)
    const { pool, balancer } = balanced(list)
    await balancer.start()
    for (const instance of fleet) pool.poolOf(instance)
    const story: string[] = []
    pool.on('retired', ({ instance, reason }) => {
      story.push(`retired ${instance.id}: ${reason}`)
      // The second one is back before its turn to go has come.
      if (instance.id === first.id) {
        list.set([second, third])
        pool.poolOf(second)
      }
    })
    pool.on('closed', ({ instance }) => story.push(`closed ${instance.id}`))

    list.set([third])
    await new Promise((resolve) => setImmediate(resolve))

    expect(
      pool
        .stats()
        .instances.map(({ instance }) => instance)
        .sort(),
    ).toEqual([second.id, third.id])
    expect(story.filter((line) => line.startsWith('retired'))).toEqual([`retired ${first.id}: left`])
  })

  it('move though addressOf throws for another instance', async () => {
    const fleet = await startFleet(3)
    const [first, second, third] = fleet as readonly Instance[] as [Instance, Instance, Instance]
    const list = new List([first, { id: 'b', address: second.address }])
    const { pool, balancer } = balanced(list, {
      pool: {
        addressOf: ({ address }) => {
          if (address === 'broken') throw new Error('no address')
          return address
        },
      },
    })
    await balancer.start()
    expect(await pool.call('get', { key: 'a' })).toEqual({ value: 1 })
    expect(await pool.call('get', { key: 'a' })).toEqual({ value: 2 })

    list.set([
      { id: first.id, address: 'broken' },
      { id: 'b', address: third.address },
    ])

    const answers = await Promise.allSettled([pool.call('get', { key: 'a' }), pool.call('get', { key: 'a' })])
    expect(answers.map((answer) => (answer.status === 'fulfilled' ? answer.value : 'failed'))).toEqual([
      'failed',
      { value: 3 },
    ])
  })
})
