import { type CachedValue, type CacheWrite, OptionError } from 'spillway'
import { cacheStoreContract, FakeClock, MemoryCacheStore, type MemoryCacheStoreOptions } from 'spillway/testing'
import { describe, expect, test } from 'vitest'

/** The contract's cases for a store on this clock. */
function casesOf(store: MemoryCacheStore, clock: FakeClock, values: readonly unknown[] = []) {
  return cacheStoreContract({ open: () => store, elapse: (ms) => clock.advance(ms), values })
}

describe('MemoryCacheStore keeps the contract of cache stores', () => {
  const clock = new FakeClock()
  const values = [new Date(0), new Map([[1, 'one']]), new Set(['a']), 1n, Number.NaN, -0, [undefined]]
  for (const { name, run } of casesOf(new MemoryCacheStore({ clock }), clock, values)) test(name, run)
})

describe('MemoryCacheStore keeps the contract with values that are copied, or checked', () => {
  const clock = new FakeClock()
  const encode = (value: unknown): unknown => {
    if (typeof value === 'bigint') throw new OptionError('value', 'value must not be a bigint, got 1 (bigint)')
    return structuredClone(value)
  }
  const store = new MemoryCacheStore({ clock, encode })
  const harness = { open: () => store, elapse: (ms: number) => clock.advance(ms), refused: [1n] }
  for (const { name, run } of cacheStoreContract(harness)) test(name, run)
})

describe('the contract of cache stores', () => {
  /** Runs the contract against a broken store, and says which cases fail. */
  const failures = async (Broken: new (options: MemoryCacheStoreOptions) => MemoryCacheStore): Promise<string[]> => {
    const clock = new FakeClock()
    const failed: string[] = []
    for (const { name, run } of casesOf(new Broken({ clock }), clock)) await run().catch(() => failed.push(name))
    return failed
  }

  test('fails a store that writes whatever the version', async () => {
    class Unconditional extends MemoryCacheStore {
      override setMany(writes: readonly CacheWrite[]) {
        return super.setMany(writes.map(({ ifVersion: _, ...write }) => write))
      }
    }

    expect(await failures(Unconditional)).toEqual(
      expect.arrayContaining([
        'a conditional write is refused where somebody wrote, and is told the version',
        'a conditional write is refused where somebody deleted',
        'of writers that race on one version exactly one wins, and the others are told',
      ]),
    )
  })

  test('fails a store that deletes without a trace', async () => {
    class Forgetful extends MemoryCacheStore {
      override async getMany(keys: readonly string[]): Promise<readonly CachedValue[]> {
        const read = await super.getMany(keys)
        return read.map((one) => (one.value === undefined ? { ...one, version: '' } : one))
      }
    }

    expect(await failures(Forgetful)).toContain(
      'a delete leaves a tombstone, which has a version and no value, where there was nothing too',
    )
  })

  test('fails a store that compares what was loaded with a value that has expired', async () => {
    class ShortOfMemory extends MemoryCacheStore {
      constructor(options: MemoryCacheStoreOptions) {
        super({ ...options, fenceMs: 60 })
      }
    }

    expect(await failures(ShortOfMemory)).toEqual(
      expect.arrayContaining([
        'says how long it remembers versions',
        'a version outlives its value, for what was loaded before',
      ]),
    )
  })

  test('fails a store that reads through JSON, or answers with what it has in some order', async () => {
    class Texts extends MemoryCacheStore {
      override async getMany(keys: readonly string[]): Promise<readonly CachedValue[]> {
        const read = await super.getMany([...keys].sort())
        return read.map((one) => ({ ...one, value: one.value || undefined }))
      }
    }

    expect(await failures(Texts)).toEqual(
      expect.arrayContaining([
        'every value comes back as it was, alone',
        'answers are in the order of the arguments',
        'a key that is asked twice is answered twice',
      ]),
    )
  })

  test('fails a store that answers with null, which is a value, for what is not there any more', async () => {
    class Null extends MemoryCacheStore {
      override async getMany(keys: readonly string[]): Promise<readonly CachedValue[]> {
        const read = await super.getMany(keys)
        return read.map((one) => (one.value === undefined && one.version !== '' ? { ...one, value: null } : one))
      }
    }

    expect(await failures(Null)).toEqual(
      expect.arrayContaining([
        'a delete leaves a tombstone, which has a version and no value, where there was nothing too',
        'a version outlives its value, for what was loaded before',
      ]),
    )
  })

  test('does not mind the order of the fields of an answer', async () => {
    class Turned extends MemoryCacheStore {
      override async setMany(writes: readonly CacheWrite[]) {
        const outcomes = await super.setMany(writes)
        return outcomes.map((one) => (one instanceof Error ? one : { version: one.version, written: one.written }))
      }
    }

    expect(await failures(Turned)).toEqual([])
  })

  test('fails a store whose marks come back when they are renewed', async () => {
    class Toggling extends MemoryCacheStore {
      override async renewMarks(names: readonly string[]) {
        const renewed = await super.renewMarks(names)
        return renewed.map((mark) => ({ ...mark, mark: String(Number(mark.mark) % 2) }))
      }
    }

    expect(await failures(Toggling)).toContain('a renewal gives a state that the mark never had')
  })
})

describe('MemoryCacheStore', () => {
  const write = (key: string, value: unknown = key): CacheWrite => {
    return { key, value, freshMs: 1000, keptMs: 1000, marks: [] }
  }

  test('forgets a version when its fence is over, and nobody keeps the value', async () => {
    const clock = new FakeClock()
    const store = new MemoryCacheStore({ clock, fenceMs: 5000 })
    await store.setMany([write('a')])
    await store.deleteMany(['b'])

    await clock.advance(4999)
    expect((await store.getMany(['a', 'b'])).map(({ version }) => version)).toEqual(['1', '2'])
    await clock.advance(1)

    expect((await store.getMany(['a', 'b'])).map(({ version }) => version)).toEqual(['', ''])
    expect(store.size).toBe(0)
  })

  test('keeps as many keys and marks as it may, and forgets those that were written longest ago', async () => {
    const store = new MemoryCacheStore({ clock: new FakeClock(), capacity: 3 })
    const [mark] = await store.readMarks(['m1'])
    await store.setMany([write('a'), write('b'), write('c')])
    await store.setMany([write('a', 'again')])
    await store.deleteMany(['d'])
    await store.readMarks(['m2', 'm3', 'm4'])

    const read = await store.getMany(['a', 'b', 'c', 'd'])

    expect(read.map(({ value }) => value)).toEqual(['again', undefined, 'c', undefined])
    expect(read.map(({ version }) => version !== '')).toEqual([true, false, true, true])
    expect(store.size).toBe(3)
    // Made anew, so that what was written with it is invalid.
    expect((await store.readMarks(['m1']))[0]?.mark).not.toBe(mark?.mark)
  })

  test('keeps values themselves, or what encode makes of them', async () => {
    const value = { n: 1 }
    const plain = new MemoryCacheStore()
    const copying = new MemoryCacheStore({ encode: structuredClone })
    await plain.setMany([write('a', value)])
    await copying.setMany([write('a', copying.encode?.(value))])
    value.n = 2

    expect((await plain.getMany(['a']))[0]?.value).toBe(value)
    expect((await copying.getMany(['a']))[0]?.value).toEqual({ n: 1 })
    expect(plain.encode).toBeUndefined()
  })

  test('refuses a value that is undefined, alone', async () => {
    const store = new MemoryCacheStore()

    const [first, second] = await store.setMany([write('a'), { ...write('b'), value: undefined }])

    expect(first).toMatchObject({ written: true })
    expect(second).toMatchObject({ code: 'ERR_OPTION', field: 'value' })
  })

  test.each([
    ['key', 7],
    ['freshMs', Number.NaN],
    ['freshMs', -1],
    ['keptMs', 999],
    ['keptMs', '1000'],
    ['marks', undefined],
  ])('refuses a write whose %s is %s, alone', async (field, value) => {
    const store = new MemoryCacheStore()

    const [first, second] = await store.setMany([write('a'), { ...write('b'), [field]: value } as CacheWrite])

    expect(first).toMatchObject({ written: true })
    expect(second).toMatchObject({ code: 'ERR_OPTION', field })
    expect(store.size).toBe(1)
  })

  test('refuses options that are wrong', () => {
    expect(() => new MemoryCacheStore({ fenceMs: -1 })).toThrow('fenceMs must be a number between 0 and 2147483647')
    expect(() => new MemoryCacheStore({ capacity: 0 })).toThrow('capacity must be a whole number between 1 and')
    expect(() => new MemoryCacheStore({ encode: 'json' as never })).toThrow('encode must be a function')
    expect(() => new MemoryCacheStore(7 as never)).toThrow('options must be an object')
  })
})
