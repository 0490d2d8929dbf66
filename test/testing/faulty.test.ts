import { AsyncBatcher, type CacheWrite, MultiLevelCache } from 'spillway'
import {
  cacheStoreContract,
  counterStoreContract,
  everyNth,
  FakeClock,
  FaultSwitch,
  type FaultyCall,
  faulty,
  MemoryCacheStore,
  MemoryCounterStore,
  MemoryInvalidationBus,
  outage,
  seededRandom,
} from 'spillway/testing'
import { describe, expect, test, vi } from 'vitest'

const write: CacheWrite = { key: 'a', value: 'A', freshMs: 1000, keptMs: 1000, marks: [] }
const errorOf = (answer: PromiseLike<unknown>): Promise<unknown> =>
  Promise.resolve(answer).catch((error: unknown) => error)

describe('an object without faults is as good as the one behind it', () => {
  const clock = new FakeClock()
  const store = faulty(new MemoryCacheStore({ clock }), { clock })
  const harness = { open: () => store, elapse: (ms: number) => clock.advance(ms) }
  for (const { name, run } of cacheStoreContract(harness)) test(`a cache store: ${name}`, run)

  const counters = faulty(new MemoryCounterStore(), { power: new FaultSwitch({ clock }) })
  for (const { name, run } of counterStoreContract({ open: () => counters })) test(`a counter store: ${name}`, run)

  test('to its properties, its class and what it can', () => {
    const plain = faulty(Object.freeze({ id: 7, idempotent: true, write: () => 'written' }))

    expect([plain.id, plain.write(), Object.keys(plain), 'write' in plain]).toEqual([
      7,
      'written',
      ['id', 'idempotent', 'write'],
      true,
    ])
    expect({ ...store }.fenceMs).toBe(60_000)
    expect(store).toBeInstanceOf(MemoryCacheStore)
    expect(store.getMany).toBe(store.getMany)
  })

  test('to what is changed of it', async () => {
    const target = { n: 1, read: () => 1 }
    const plain = faulty(target)
    expect(plain.read()).toBe(1)

    plain.n = 2
    target.read = () => 3

    expect([target.n, plain.n, plain.read()]).toEqual([2, 2, 3])
  })
})

test('a spy on a method is called, behind its faults, and goes again', async () => {
  const store = faulty(new MemoryCounterStore(), { faults: { getMany: { kind: 'fail', when: everyNth(2) } } })
  const spy = vi.spyOn(store, 'getMany').mockResolvedValue([7])

  expect(await store.getMany(['a'])).toEqual([7])
  await expect(store.getMany(['a'])).rejects.toThrow('injected failure')
  expect(spy.mock.calls).toEqual([[['a']]])

  spy.mockRestore()
  expect(await store.getMany(['a'])).toEqual([0])
})

describe('the faults of an object', () => {
  test('strike the methods that they are for, each in its way', async () => {
    const clock = new FakeClock()
    const memory = new MemoryCacheStore({ clock })
    const store = faulty(memory, {
      clock,
      faults: {
        setMany: { kind: 'drop' },
        getMany: { kind: 'slow', delayMs: 50 },
        readMarks: [{ kind: 'late', delayMs: 80 }],
        renewMarks: [{ kind: 'hang' }],
        '*': { kind: 'fail' },
      },
    })
    const settled: string[] = []

    expect(await errorOf(store.setMany([write]))).toMatchObject({ code: 'ERR_STORE', outcomeUnknown: true })
    expect(await errorOf(store.deleteMany(['a']))).toMatchObject({ code: 'ERR_STORE', outcomeUnknown: false })
    void store.getMany(['a']).then(([one]) => settled.push(`${one?.value} at ${clock.now()}`))
    void store.readMarks(['m']).then(() => settled.push(`marks at ${clock.now()}`))
    void store.renewMarks(['m']).then(() => settled.push('renewed'))
    await clock.advance(1000)

    expect(settled).toEqual(['A at 50', 'marks at 80'])
  })

  test('are tried in their order, and the first that strikes decides', async () => {
    const calls: FaultyCall[] = []
    const store = faulty(new MemoryCounterStore(), {
      faults: {
        getMany: [
          { kind: 'fail', when: everyNth(2) },
          { kind: 'drop', when: everyNth(3) },
        ],
      },
      onCall: (call) => calls.push(call),
    })

    for (let i = 0; i < 6; i++) await errorOf(store.getMany(['a']))

    expect(calls.map(({ call, fault }) => [call, fault])).toEqual([
      [1, undefined],
      [2, 'fail'],
      [3, 'drop'],
      [4, 'fail'],
      [5, undefined],
      [6, 'fail'],
    ])
    expect(calls[0]?.method).toBe('getMany')
  })

  test('strike the same calls for the same seed, and others for another one', async () => {
    const struck = async (seed: number): Promise<string> => {
      const calls: string[] = []
      const store = faulty(new MemoryCounterStore(), {
        random: seededRandom(seed),
        faults: {
          '*': [
            { kind: 'fail', rate: 0.3 },
            { kind: 'drop', rate: 0.2 },
          ],
        },
        onCall: ({ method, call, fault }) => calls.push(`${method} ${call} ${fault}`),
      })
      for (let i = 0; i < 300; i++)
        await errorOf(i % 3 === 0 ? store.getMany([]) : store.increment([], undefined as never))
      return calls.join('\n')
    }

    const first = await struck(1)

    expect(await struck(1)).toBe(first)
    expect(await struck(2)).not.toBe(first)
    const count = (kind: string): number => first.split(kind).length - 1
    expect(count('fail')).toBeGreaterThan(70)
    expect(count('fail')).toBeLessThan(110)
    expect(count('drop')).toBeGreaterThan(25)
  })

  test('count calls of each method for itself, those of "*" too', async () => {
    const store = faulty(new MemoryCounterStore(), { faults: { '*': { kind: 'fail', when: everyNth(2) } } })

    expect(await store.getMany([])).toEqual([])
    expect(await store.increment([], undefined as never).catch(() => 'first increment')).not.toBeInstanceOf(Array)
    await expect(store.getMany([])).rejects.toThrow('injected failure of call 2')
  })

  test('come and go with an outage', async () => {
    const clock = new FakeClock()
    const l2 = faulty(new MemoryCacheStore({ clock }), {
      clock,
      faults: { '*': { kind: 'fail', when: outage({ clock, fromMs: 1000, toMs: 2000 }) } },
    })
    const cache = new MultiLevelCache<string>({ clock, l2, l2Breaker: false })
    const settle = async (call: Promise<unknown>): Promise<unknown> => {
      await clock.advance(0)
      return call
    }

    await settle(cache.set('a', 'A'))
    await clock.advance(1000)
    expect(await settle(cache.getOrLoad('b', () => 'B'))).toBe('B')
    const failures = cache.stats().l2?.failed ?? 0
    await clock.advance(100_000)
    await settle(cache.get('a'))

    expect(failures).toBeGreaterThan(0)
    expect(cache.stats().l2?.failed).toBe(failures)
    const closed = cache.close()
    await clock.advance(10_000)
    await closed
  })

  test('leave synchronous methods alone, unless they are named', () => {
    const clock = new FakeClock()
    const heard: unknown[] = []
    const listener = { onInvalidations: (all: unknown) => heard.push(all), onGap: () => undefined }
    const through = faulty(new MemoryInvalidationBus({ clock }), { faults: { '*': { kind: 'fail' } } })
    const broken = faulty(new MemoryInvalidationBus({ clock }), { faults: { connect: { kind: 'fail' } } })

    expect(through.connect(listener)).toHaveProperty('publish')
    expect(() => broken.connect(listener)).toThrow('injected failure of call 1')
  })

  test('that are synchronous may do the work and throw', () => {
    const done: string[] = []
    const sink = faulty(
      { writeSync: (chunk: string) => void done.push(chunk), mine: (n: number) => n },
      {
        synchronous: ['writeSync', 'mine'],
        faults: { writeSync: { kind: 'drop', error: (call) => new Error(`no ${call}`) } },
      },
    )

    expect(() => sink.writeSync('a')).toThrow('no 1')
    expect([done, sink.mine(3)]).toEqual([['a'], 3])
  })

  test('are no concern of calls that the object makes of its own methods', async () => {
    class Store {
      async one(): Promise<number> {
        return 1
      }
      async two(): Promise<number> {
        return 2 * (await this.one())
      }
    }
    const store = faulty(new Store(), { faults: { one: { kind: 'fail' } } })

    expect(await store.two()).toBe(2)
    await expect(store.one()).rejects.toThrow('injected')
  })
})

test('a switch decides before the faults do', async () => {
  const clock = new FakeClock()
  const power = new FaultSwitch({ clock })
  const store = faulty(new MemoryCounterStore({ initial: [['a', 7]] }), {
    power,
    faults: { getMany: { kind: 'drop', when: everyNth(2) } },
  })
  const batcher = new AsyncBatcher<string, number>((keys) => store.getMany(keys), { clock, maxWaitMs: 0 })
  const add = async (): Promise<unknown> => {
    const answer = errorOf(batcher.add('a'))
    await clock.advance(0)
    return answer
  }

  expect(await add()).toBe(7)
  expect(await add()).toMatchObject({ message: 'injected loss of the answer to call 2' })
  power.turn('dead')
  expect(await add()).toMatchObject({ message: 'injected failure of call 3' })
  power.turn('ok')
  expect(await add()).toMatchObject({ message: 'injected loss of the answer to call 4' })
  expect(power.counts).toMatchObject({ ok: 3, dead: 1 })
})

describe('misuse', () => {
  const store = new MemoryCounterStore()

  test.each([
    ['target', () => faulty(undefined as never), 'target must be an object'],
    ['options', () => faulty(store, 7 as never), 'options must be an object'],
    ['faults', () => faulty(store, { faults: 'all' as never }), 'faults must be an object'],
    [
      'faults.getmany',
      () => faulty(store, { faults: { getmany: [] } as never }),
      'faults.getmany must be the name of a',
    ],
    ['faults.getMany', () => faulty(store, { faults: { getMany: ['fail' as never] } }), 'must be a fault or a list of'],
    [
      'kind',
      () => faulty(store, { faults: { '*': { kind: 'slower' as never } } }),
      "kind must be one of 'fail', 'slow'",
    ],
    [
      'rate',
      () => faulty(store, { faults: { '*': { kind: 'fail', rate: 2 } } }),
      'rate must be a number between 0 and',
    ],
    ['when', () => faulty(store, { faults: { '*': { kind: 'fail', when: 2 as never } } }), 'when must be a function'],
    ['delayMs', () => faulty(store, { faults: { '*': { kind: 'slow' } } }), 'delayMs must be a number'],
    [
      'delayMs',
      () => faulty(store, { faults: { '*': { kind: 'fail', delayMs: 1 } } }),
      "delayMs belongs to 'slow' and",
    ],
    [
      'error',
      () => faulty(store, { faults: { '*': { kind: 'fail', error: 1 as never } } }),
      'error must be a function',
    ],
    ['power', () => faulty(store, { power: 'off' as never }), 'power must be a FaultSwitch'],
    ['synchronous', () => faulty(store, { synchronous: 'on' as never }), 'synchronous must be a list of names'],
    ['onCall', () => faulty(store, { onCall: 1 as never }), 'onCall must be a function'],
    ['random', () => faulty(store, { random: 1 as never }), 'random must be a function'],
    [
      'kind',
      () => faulty({ writeSync: () => 1 }, { faults: { writeSync: { kind: 'hang' } } }),
      "kind must be one of 'fail', 'drop'",
    ],
  ])('a wrong %s is refused at once', (field, make, message) => {
    expect(make).toThrow(expect.objectContaining({ code: 'ERR_OPTION', field }))
    expect(make).toThrow(message)
  })
})
