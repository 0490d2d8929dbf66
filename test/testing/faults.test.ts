import { getEventListeners } from 'node:events'
import { type CacheStore, type CacheWrite, isSpillwayError, MultiLevelCache } from 'spillway'
import { commitThenDrop, FakeClock, flaky, hanging, late, MemoryCacheStore, seededRandom, slow } from 'spillway/testing'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'

let clock: FakeClock

beforeEach(() => {
  clock = new FakeClock()
})

afterEach(() => {
  expect(clock.pending).toBe(0)
})

/** What a promise came to so far. */
function watch(promise: Promise<unknown>): { state: string; value: unknown } {
  const seen: { state: string; value: unknown } = { state: 'pending', value: undefined }
  promise.then(
    (value) => Object.assign(seen, { state: 'resolved', value }),
    (value: unknown) => Object.assign(seen, { state: 'rejected', value }),
  )
  return seen
}

describe('flaky', () => {
  test('fails its share of calls without doing anything, the same ones for the same seed', async () => {
    const outcomes = async (): Promise<{ done: number[]; failed: number[] }> => {
      const done: number[] = []
      const failed: number[] = []
      const fn = flaky((n: number) => void done.push(n), { failureRate: 0.3, random: seededRandom('flaky') })
      for (let n = 0; n < 1000; n++) await fn(n).catch(() => failed.push(n))
      return { done, failed }
    }

    const first = await outcomes()
    const second = await outcomes()

    expect(first).toEqual(second)
    expect(first.done.length + first.failed.length).toBe(1000)
    expect(first.failed.length).toBeGreaterThan(250)
    expect(first.failed.length).toBeLessThan(350)
  })

  test('with 0 never fails, with 1 always', async () => {
    const never = flaky((n: number) => n * 2, { failureRate: 0 })
    const always = flaky((n: number) => n * 2, { failureRate: 1 })

    for (let n = 0; n < 50; n++) {
      expect(await never(n)).toBe(n * 2)
      await expect(always(n)).rejects.toThrow(`injected failure of call ${n + 1}`)
    }
  })

  test('rejects with a StoreError that leaves no doubt, or with the error that was asked for', async () => {
    const plain = flaky(() => undefined, { failureRate: 1 })
    const own = flaky(() => undefined, { failureRate: 1, error: (call) => ({ call }) })

    const error = await plain().catch((reason: unknown) => reason)

    expect(isSpillwayError(error, 'ERR_STORE')).toBe(true)
    expect(error).toMatchObject({ outcomeUnknown: false, retryable: true })
    await expect(own()).rejects.toEqual({ call: 1 })
    await expect(own()).rejects.toEqual({ call: 2 })
  })

  test('passes arguments, answers and the function’s own errors through', async () => {
    const fn = flaky(
      async (a: number, b: string) => {
        if (a < 0) throw new Error('own')
        return `${a}${b}`
      },
      { failureRate: 0 },
    )

    expect(await fn(1, 'x')).toBe('1x')
    await expect(fn(-1, 'x')).rejects.toThrow('own')
  })
})

describe('slow', () => {
  test('starts each call so much later', async () => {
    const started: number[] = []
    const fn = slow(() => started.push(clock.now()), { delayMs: 50, clock })

    const answer = watch(fn())
    await clock.advance(49)
    const before = [...started]
    await clock.advance(1)

    expect(before).toEqual([])
    expect(started).toEqual([50])
    expect(answer).toEqual({ state: 'resolved', value: 1 })
  })

  test('asks a function for each delay', async () => {
    const delays = [30, 10, 20]
    const ended: number[] = []
    const fn = slow((n: number) => void ended.push(n), { delayMs: () => delays.shift() ?? 0, clock })

    for (let n = 0; n < 3; n++) void fn(n)
    await clock.advance(30)

    expect(ended).toEqual([1, 2, 0])
  })

  test('rejects when the signal of its last argument aborts, and lets timer and listener go', async () => {
    const controller = new AbortController()
    const reason = new Error('enough')
    let calls = 0
    const fn = slow((_what: string, _context: { signal: AbortSignal }) => void calls++, { delayMs: 50, clock })

    const answer = watch(fn('work', { signal: controller.signal }))
    await clock.advance(10)
    controller.abort(reason)
    await clock.advance(0)

    expect(answer).toEqual({ state: 'rejected', value: reason })
    expect(clock.pending).toBe(0)
    expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
    await clock.advance(100)
    expect(calls).toBe(0)
  })

  test('rejects at once when the signal has aborted already, and listens no more after a good end', async () => {
    const fn = slow((context: { signal: AbortSignal }) => context.signal.aborted, { delayMs: 50, clock })
    const { signal } = new AbortController()

    await expect(fn({ signal: AbortSignal.abort('over') })).rejects.toBe('over')
    const answer = watch(fn({ signal }))
    await clock.advance(50)

    expect(answer.state).toBe('resolved')
    expect(getEventListeners(signal, 'abort')).toHaveLength(0)
  })
})

describe('late', () => {
  test('does the work at once and answers later', async () => {
    const done: number[] = []
    const fn = late(
      (n: number) => {
        done.push(clock.now())
        return n
      },
      { delayMs: 50, clock },
    )

    const answer = watch(fn(7))
    await clock.advance(49)
    const before = answer.state
    await clock.advance(1)

    expect(done).toEqual([0])
    expect(before).toBe('pending')
    expect(answer).toEqual({ state: 'resolved', value: 7 })
  })

  test('ignores the signal, and is late with errors too', async () => {
    const controller = new AbortController()
    const fn = late(
      (_context: { signal: AbortSignal }) => {
        throw new Error('own')
      },
      { delayMs: 50, clock },
    )

    const answer = watch(fn({ signal: controller.signal }))
    controller.abort()
    await clock.advance(49)
    const before = answer.state
    await clock.advance(1)

    expect(before).toBe('pending')
    expect(answer).toMatchObject({ state: 'rejected', value: { message: 'own' } })
  })
})

describe('hanging', () => {
  test('never settles and never calls the function', async () => {
    let calls = 0
    const fn = hanging(() => calls++)

    const answer = watch(fn())
    await clock.advance(1_000_000)

    expect(answer.state).toBe('pending')
    expect(calls).toBe(0)
  })

  test('hangs its share of calls', async () => {
    const fn = hanging((n: number) => n, { rate: 0.5, random: seededRandom('hang') })

    const answers = Array.from({ length: 1000 }, (_, n) => watch(fn(n)))
    await clock.advance(0)

    const hung = answers.filter(({ state }) => state === 'pending').length
    expect(hung).toBeGreaterThan(430)
    expect(hung).toBeLessThan(570)
  })

  test('with a rate of 0 never hangs', async () => {
    const fn = hanging((n: number) => n, { rate: 0 })

    for (let n = 0; n < 50; n++) expect(await fn(n)).toBe(n)
  })
})

describe('commitThenDrop', () => {
  test('does the work always, and loses its share of the answers', async () => {
    let done = 0
    let lost = 0
    const fn = commitThenDrop(() => ++done, { failureRate: 0.3, random: seededRandom('lost') })

    for (let i = 0; i < 1000; i++) await fn().catch(() => lost++)

    expect(done).toBe(1000)
    expect(lost).toBeGreaterThan(250)
    expect(lost).toBeLessThan(350)
  })

  test('rejects with an error that leaves the outcome open, or with the one that was asked for', async () => {
    const plain = commitThenDrop(() => 'done', { failureRate: 1 })
    const own = commitThenDrop(() => 'done', { failureRate: 1, error: (call) => `lost ${call}` })

    const error = await plain().catch((reason: unknown) => reason)

    expect(isSpillwayError(error, 'ERR_STORE')).toBe(true)
    expect(error).toMatchObject({ outcomeUnknown: true })
    await expect(own()).rejects.toBe('lost 1')
    await expect(own()).rejects.toBe('lost 2')
  })

  test('passes the function’s own errors through: what failed was not committed', async () => {
    const fn = commitThenDrop(() => Promise.reject(new Error('own')), { failureRate: 1 })

    await expect(fn()).rejects.toThrow('own')
  })
})

describe('the methods of a cache store', () => {
  /** A store that behaves worse in each method. */
  const faulty = (memory: MemoryCacheStore): CacheStore => ({
    fenceMs: memory.fenceMs,
    getMany: slow((keys: readonly string[]) => memory.getMany(keys), { delayMs: 50, clock }),
    setMany: commitThenDrop((writes: readonly CacheWrite[]) => memory.setMany(writes), { failureRate: 1 }),
    deleteMany: flaky((keys: readonly string[]) => memory.deleteMany(keys), { failureRate: 1 }),
    readMarks: late((names: readonly string[]) => memory.readMarks(names), { delayMs: 80, clock }),
    renewMarks: hanging((names: readonly string[]) => memory.renewMarks(names)),
  })

  test('can each be made to fail in its own way', async () => {
    const memory = new MemoryCacheStore({ clock })
    const store = faulty(memory)
    const write = { key: 'a', value: 'A', freshMs: 1000, keptMs: 1000, marks: [] }

    const lost = await Promise.resolve(store.setMany([write])).catch((reason: unknown) => reason)
    const failed = await Promise.resolve(store.deleteMany(['a'])).catch((reason: unknown) => reason)
    const [read, marks, renewed] = [
      watch(Promise.resolve(store.getMany(['a']))),
      watch(Promise.resolve(store.readMarks(['m']))),
      watch(Promise.resolve(store.renewMarks(['m']))),
    ]
    await clock.advance(50)

    expect(lost).toMatchObject({ code: 'ERR_STORE', outcomeUnknown: true })
    expect(failed).toMatchObject({ code: 'ERR_STORE', outcomeUnknown: false })
    expect(read).toMatchObject({ state: 'resolved', value: [{ value: 'A', version: '1' }] })
    expect([marks.state, renewed.state]).toEqual(['pending', 'pending'])
    await clock.advance(1_000_000)
    expect([marks.state, renewed.state]).toEqual(['resolved', 'pending'])
  })

  test('that fail hurt nobody who reads or writes through a cache', async () => {
    const l2 = faulty(new MemoryCacheStore({ clock }))
    const cache = new MultiLevelCache<string>({ clock, l2, l2TimeoutMs: 100 })

    const calls = [
      cache.set('a', 'A'),
      cache.delete('b'),
      cache.invalidateTags(['t']),
      cache.getOrLoad('c', async () => 'loaded'),
      cache.get('a'),
    ].map((call) => watch(call))
    await clock.advance(1000)

    expect(calls.map(({ state }) => state)).toEqual(Array(5).fill('resolved'))
    expect([cache.peek('a'), cache.peek('c')]).toEqual(['A', 'loaded'])
    const closed = cache.close({ timeoutMs: 1000 })
    await clock.advance(1000)
    expect(await closed).toMatchObject({ drained: false })
  })
})
