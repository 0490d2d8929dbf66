import { randomUUID } from 'node:crypto'
import { type BatchContext, StoreError } from 'spillway'
import { FaultSwitch, faulty, MemoryCounterStore } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { GuardedStore } from '../../examples/counter-billing/counter/guarded-store.ts'
import { startClient } from './counter-client.ts'

const context = (): BatchContext => ({ batchId: randomUUID(), attempt: 1, signal: new AbortController().signal })

function newStore() {
  const power = new FaultSwitch()
  const log: string[] = []
  const inner = new MemoryCounterStore()
  const store = new GuardedStore(faulty(inner, { power }), 'live', (level, message) => log.push(`${level} ${message}`))
  return { power, log, inner, store }
}

describe('a guarded store', () => {
  test('that fails five times in a row is not asked any more, and who waits is told at once', async () => {
    const { power, store, log } = newStore()
    power.turn('dead')

    for (let n = 0; n < 5; n++) await expect(store.getMany(['a'])).rejects.toMatchObject({ code: 'ERR_STORE' })
    const refused = store.increment([{ key: 'a', delta: 1 }], context())

    await expect(refused).rejects.toMatchObject({ code: 'ERR_CIRCUIT_OPEN', retryable: false })
    expect(power.calls).toBe(5)
    expect(log).toEqual([expect.stringMatching(/^warn the live store fails/)])
  })

  test('takes what nobody waits for all the same, and is well again when that succeeds', async () => {
    const { power, store, inner, log } = newStore()
    power.turn('dead')
    for (let n = 0; n < 5; n++) await store.getMany(['a']).catch(() => undefined)

    await expect(store.add(new Map([['a', 1]]), context())).rejects.toThrow('injected failure')
    power.turn('ok')
    await store.add(new Map([['a', 2]]), context())

    expect(await inner.getMany(['a'])).toEqual([2])
    expect(store.breaker.state).toBe('closed')
    expect(await store.getMany(['a'])).toEqual([2])
    expect(log.at(-1)).toBe('info the live store answers again')
  })

  test('that says no is well', async () => {
    const inner = new MemoryCounterStore()
    const says = async (): Promise<never> => {
      throw new StoreError('no', { retryable: false })
    }
    const store = new GuardedStore(
      Object.assign(Object.create(inner) as MemoryCounterStore, { increment: says }),
      'live',
      () => undefined,
    )

    for (let n = 0; n < 10; n++) await expect(store.increment([], context())).rejects.toThrow('no')

    expect(store.breaker.state).toBe('closed')
  })
})

describe('a gateway whose live store is dead', () => {
  test('reads the durable value without asking it, and answers an increment of it with a 503 that was not applied', async () => {
    const power = new FaultSwitch()
    const stores = { live: faulty(new MemoryCounterStore(), { power }), durable: new MemoryCounterStore() }
    const client = await startClient(stores, { retry: { attempts: 1 } })
    await client.increment('post', 3, 'committed')
    await expect.poll(() => client.value('post', 'live')).toBe(3)
    power.turn('dead')
    // Each by itself: what comes together is one call.
    for (let n = 0; n < 5; n++) await client.increment(`other-${n}`, 1, 'redis')
    const { calls } = power

    const read = await client.get('/api/v1/counter/post/like?fresh=true')
    const increment = await client.increment('post', 1, 'redis')

    expect(read.body).toMatchObject({ value: 3, source: 'durable' })
    expect(increment).toMatchObject({ status: 503, body: { applied: 'no' } })
    expect(power.calls).toBe(calls)
    power.turn('ok')
  })
})
