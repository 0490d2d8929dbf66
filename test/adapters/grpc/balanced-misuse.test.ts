import { LoadBalancer } from 'spillway'
import { GrpcBalancedPool } from 'spillway/grpc'
import { describe, expect, it } from 'vitest'
import { clientOf } from './support/counter-service.js'
import { balanced, type Instance, startFleet } from './support/fleet.js'
import { cleanUp, tidyUp } from './support/tidy.js'

tidyUp()

const balancerOf = (instances: readonly Instance[] = []): LoadBalancer<Instance> => {
  const balancer = new LoadBalancer(instances)
  cleanUp(() => balancer.close({ timeoutMs: 0 }))
  return balancer
}

const make = (_instance: Instance, options: object) => clientOf('127.0.0.1:1')(options)

describe('misuse of a balanced pool', () => {
  it.each([
    [{ channels: 0 }, 'channels must be a whole number between 1 and 20, got 0 (number)'],
    [{ channels: null }, 'channels must be an object, got null (null)'],
    [{ channels: { max: 21 } }, 'channels.max must be a whole number between 1 and 20, got 21 (number)'],
    [{ keepalive: 'rude' }, /^keepalive must be one of/],
    [{ timeoutMs: 0 }, /^timeoutMs must be a number between 1/],
    [{ maxMessageBytes: 0 }, /^maxMessageBytes must be a whole number/],
    [{ retry: { maxAttempts: 6 } }, /^retry\.maxAttempts must be a whole number between 2 and 5/],
    [{ channelOptions: 1 }, /^channelOptions must be an object/],
    [{ addressOf: 'address' }, 'addressOf must be a function, got "address" (string)'],
    [{ addressOf: null }, 'addressOf must be a function, got null (null)'],
    [{ drainTimeoutMs: -1 }, /^drainTimeoutMs must be a number between 0/],
    [{ drainTimeoutMs: null }, /^drainTimeoutMs must be a number between 0/],
    [{ name: 7 }, 'name must be a string, got 7 (number)'],
    [7, /^options must be an object/],
  ])('in its options %j throws before there is any instance', (options, message) => {
    const balancer = balancerOf()

    expect(() => new GrpcBalancedPool(balancer, make, options as never)).toThrow(message)
    expect(() => new GrpcBalancedPool(balancer, make, options as never)).toThrow(
      expect.objectContaining({ code: 'ERR_OPTION' }),
    )
  })

  it('in its arguments throws', () => {
    expect(() => new GrpcBalancedPool(undefined as never, make)).toThrow(/^balancer must have a method start/)
    expect(() => new GrpcBalancedPool({ start: () => undefined } as never, make)).toThrow(
      /^balancer must have a method pick/,
    )
    expect(() => new GrpcBalancedPool(balancerOf(), undefined as never)).toThrow(/^makeClient must be a function/)
  })

  it('takes an explicit undefined for the default', () => {
    const pool = new GrpcBalancedPool(balancerOf(), make, {
      channels: undefined,
      addressOf: undefined,
      drainTimeoutMs: undefined,
      timeoutMs: undefined,
    })
    cleanUp(() => pool.close())

    pool.poolOf({ id: 'a', address: 'a:1' })

    expect(pool.stats().instances[0]?.channels).toHaveLength(1)
  })

  it.each([
    ['a wrong key', { key: 7 }],
    ['a null key', { key: null }],
    ['wrong attempts', { attempts: 0 }],
    ['null attempts', { attempts: null }],
    ['a wrong idempotent', { idempotent: 'yes' }],
    ['a wrong retryable', { retryable: true }],
    ['a wrong timeoutMs', { timeoutMs: 0 }],
    ['a wrong signal', { signal: {} }],
    ['wrong metadata', { metadata: { tenant: 'acme' } }],
    ['wrong options', 7],
  ])('of call with %s rejects, reaches no instance and is in the books', async (_name, options) => {
    const fleet = await startFleet(1)
    const { pool, balancer } = balanced(fleet)

    await expect(pool.call('get', { key: 'a' }, options as never)).rejects.toMatchObject({ code: 'ERR_OPTION' })

    expect(pool.stats()).toMatchObject({ offered: 1, rejected: 1, attempts: 0 })
    expect(balancer.stats().offered).toBe(0)
  })

  it('of call with a method that there isn’t, or an aborted signal, rejects', async () => {
    const fleet = await startFleet(1)
    const { pool, balancer } = balanced(fleet)

    await expect(pool.call('nope' as 'get', { key: 'a' }, { attempts: 3 })).rejects.toMatchObject({
      code: 'ERR_OPTION',
    })
    await expect(pool.call('get', { key: 'a' }, { signal: AbortSignal.abort('late') })).rejects.toBe('late')

    expect(pool.stats()).toMatchObject({ offered: 2, failed: 1, rejected: 1, attempts: 1 })
    expect(balancer.stats()).toMatchObject({ offered: 1, pending: 0 })
  })

  it('of poolOf throws', () => {
    const { pool } = balanced([])

    expect(() => pool.poolOf(undefined as never)).toThrow(/^instance must have an id/)
    expect(() => pool.poolOf({} as never)).toThrow(/^instance must have an id/)
  })

  it('by an addressOf that gives no string rejects the call', async () => {
    const fleet = await startFleet(1)
    const { pool } = balanced(fleet, { pool: { addressOf: () => 7 as never } })

    await expect(pool.call('get', { key: 'a' })).rejects.toThrow('addressOf must give a string, got 7 (number)')
    expect(() => pool.openStream('increments')).toThrow('addressOf must give a string')
    expect(pool.stats()).toMatchObject({ offered: 2, failed: 1, rejected: 1, pending: 0 })
  })

  it('by a balancer that throws instead of rejecting, and by listeners that throw, changes no result', async () => {
    const fleet = await startFleet(1)
    const warned: unknown[] = []
    const note = (warning: Error): void => void (warning.name === 'SpillwayWarning' && warned.push(warning))
    process.on('warning', note)
    cleanUp(() => process.off('warning', note))
    const balancer = balancerOf(fleet)
    const throwing = {
      start: () => balancer.start(),
      pick: () => balancer.pick(),
      run: () => {
        throw new Error('no run today')
      },
      instances: () => balancer.instances(),
      on: () => () => undefined,
    }
    const broken = new GrpcBalancedPool<Instance, ReturnType<typeof make>>(throwing, make)
    cleanUp(() => broken.close())
    const { pool } = balanced(fleet)
    pool.on('opened', () => {
      throw new Error('a listener')
    })

    await expect(broken.call('get', { key: 'a' })).rejects.toThrow('no run today')
    expect(await pool.call('get', { key: 'a' })).toEqual({ value: 1 })

    expect(broken.stats()).toMatchObject({ offered: 1, rejected: 1, pending: 0 })
    await new Promise((resolve) => setImmediate(resolve))
    expect(warned).toHaveLength(1)
  })
})
