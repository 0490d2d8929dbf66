import type { LogSink } from '../../core/ports.js'
import { type ContractCase, expectEqual, expectThat } from './contract.js'

/** A target of its own, and the sink that writes to it. */
export interface LogSinkPlace {
  /** The sink on this target, which is empty at first. Called once. */
  open(): LogSink | PromiseLike<LogSink>
  /**
   * All that has arrived at the target by now, in its order: text, or bytes that are UTF-8. Where it can, it answers at once instead of
   * by a promise: then the cases of `writeSync` see whether everything is there when that returns.
   */
  read(): string | Uint8Array | PromiseLike<string | Uint8Array>
  /**
   * Moves the target away, as logrotate does: what `read` reads is what the sink opens in its stead. Answers with the function that reads
   * what was moved away. Left out for a target that isn't rotated.
   */
  rotate?(): (() => string | Uint8Array) | PromiseLike<() => string | Uint8Array>
  /** Keeps the target from taking anything, so that a write doesn't settle; answers with the function that lets it go on. */
  stall?(): (() => void) | PromiseLike<() => void>
  /** Makes the target refuse all that is written, for good; answers with the function that makes it work again. */
  fail?(): (() => void) | PromiseLike<() => void>
  /** Takes it apart when the case is over. The sink may be closed already. */
  end?(): void | PromiseLike<void>
}

/** What {@link logSinkContract} needs of an implementation. */
export interface LogSinkHarness {
  /** Makes a target of its own for each case. */
  place(): LogSinkPlace | PromiseLike<LogSinkPlace>
}

/**
 * What every `LogSink` must do, as cases for any test runner. A sink without `writeSync`, `reopen` or `close` passes by what only they do,
 * and so does a place that can't be rotated, stalled or made to fail.
 *
 * @example
 * ```ts
 * import { logSinkContract, MemoryLogSink } from 'spillway/testing'
 *
 * declare function test(name: string, run: () => Promise<void>): void
 *
 * const place = () => {
 *   const sink = new MemoryLogSink()
 *   return { open: () => sink, read: () => sink.text }
 * }
 * for (const { name, run } of logSinkContract({ place })) test(name, run)
 * ```
 */
export function logSinkContract(harness: LogSinkHarness): readonly ContractCase[] {
  const cases: ContractCase[] = []
  const test: Test = (name, body) => {
    cases.push({
      name,
      run: async () => {
        const place = await harness.place()
        try {
          await body(new World(place, await place.open()))
        } finally {
          await place.end?.()
        }
      },
    })
  }
  writing(test)
  writingAtOnce(test)
  failing(test)
  reopening(test)
  closing(test)
  return cases
}

type Test = (name: string, body: (world: World) => Promise<void>) => void

function writing(test: Test): void {
  test('a chunk has arrived when its write settles', async ({ sink, expectText }) => {
    await sink.write('first\n')
    await expectText('first\n')
    await sink.write('second\nthird\n')
    await expectText('first\nsecond\nthird\n')
  })

  test('chunks arrive in the order of their writes, each once', async ({ sink, expectText }) => {
    const chunks = Array.from({ length: 300 }, (_, i) => `line ${i}\n`.repeat(1 + (i % 3)))
    for (const chunk of chunks) await sink.write(chunk)
    await expectText(chunks.join(''))
  })

  test('text arrives as it is, in UTF-8, with nothing added', async ({ sink, expectText }) => {
    const text =
      '\ufeffmark\r\n\t\u001b[31mred\u001b[0m\0\n\u00e9 \u20ac \u{1f600} e\u0301 \u2028 \uffff\n%s %1$d \\n\n'
    await sink.write(text)
    await sink.write('{"a":"\\u0000"}\n')
    await expectText(`${text}{"a":"\\u0000"}\n`)
  })

  test('characters of several bytes are whole wherever they lie', async ({ sink, expectText }) => {
    // Nine bytes at a time, so that they lie across every boundary that a power of two has.
    const chunks = [0, 1, 2, 3].map((shift) => `${'x'.repeat(shift)}${'\u20ac\u00e9\u{1f600}'.repeat(30_000)}\n`)
    for (const chunk of chunks) await sink.write(chunk)
    await expectText(chunks.join(''))
  })

  test('half a surrogate pair does no harm to what is around it', async ({ sink, text }) => {
    await sink.write('before\nhalf \ud83d pair\nafter\n')
    await sink.write('next\n')
    const got = (await text()).replace(/[\ud800-\udfff\ufffd]+/g, '?')
    expectEqual(got, 'before\nhalf ? pair\nafter\nnext\n', 'what arrived')
  })

  test('a large chunk arrives whole', async ({ sink, expectText }) => {
    const chunk = lines('large', 40_000)
    await sink.write(chunk)
    await sink.write('next\n')
    await expectText(`${chunk}next\n`)
  })

  test('an empty chunk adds nothing', async ({ sink, expectText }) => {
    await sink.write('')
    await sink.write('a\n')
    await sink.write('')
    await expectText('a\n')
  })
}

/** The cases of sinks that can write synchronously. */
function writingAtOnce(test: Test): void {
  const atOnce = (name: string, body: (world: World, writeSync: WriteSync) => Promise<void>): void =>
    test(name, async (world) => {
      const { sink } = world
      if (typeof sink.writeSync === 'function') await body(world, (chunk) => sink.writeSync?.(chunk))
    })

  atOnce('what writeSync was given has arrived when it returns', async ({ expectText }, writeSync) => {
    const answer = writeSync('first\n')
    if (answer === undefined) await expectText('first\n')
    await answer
    await expectText('first\n')
  })

  atOnce('writeSync comes after earlier writes and before later ones', async ({ sink, expectText }, writeSync) => {
    await sink.write('a\n')
    await writeSync('b\n')
    await writeSync('c\n')
    await sink.write('d\n')
    await writeSync('e\n')
    await expectText('a\nb\nc\nd\ne\n')
  })

  for (const [size, count] of [
    ['small', 1],
    ['large', 40_000],
  ] as const) {
    atOnce(
      `a ${size} write in flight comes before writeSync, each byte once`,
      async ({ sink, expectText }, writeSync) => {
        const [chunk, last] = [lines('in flight', count), lines('at once', count)]
        const write = sink.write(chunk)
        const answer = writeSync(last)
        if (answer === undefined) await expectText(chunk + last)
        await write
        await answer
        await expectText(chunk + last)
        await sink.write('next\n')
        await expectText(`${chunk}${last}next\n`)
      },
    )
  }

  atOnce('several writeSync during one write keep their order', async ({ sink, expectText }, writeSync) => {
    await sink.write('before\n')
    const chunk = lines('in flight', 5_000)
    const write = sink.write(chunk)
    const answers = ['a\n', 'b\n', 'c\n'].map(writeSync)
    await Promise.all([write, ...answers])
    await expectText(`before\n${chunk}a\nb\nc\n`)
  })

  atOnce('a write that is partly done is completed, not repeated', async ({ sink, expectText }, writeSync) => {
    const chunk = lines('in flight', 40_000)
    const write = Promise.resolve(sink.write(chunk))
    // So that it has begun, and may have been handed to another thread.
    for (let turn = 0; turn < 3; turn++) await nextTurn()
    const answer = writeSync('last\n')
    await Promise.all([write, answer])
    await expectText(`${chunk}last\n`)
  })

  atOnce('writeSync of nothing hands over what is in flight', async ({ sink, expectText }, writeSync) => {
    const chunk = lines('in flight', 5_000)
    const write = sink.write(chunk)
    const answer = writeSync('')
    if (answer === undefined) await expectText(chunk)
    await Promise.all([write, answer])
    await expectText(chunk)
  })

  atOnce('text of writeSync arrives as it is, in UTF-8', async ({ expectText }, writeSync) => {
    const chunk = `x${'\u20ac\u00e9\u{1f600}'.repeat(30_000)}\r\n`
    await writeSync(chunk)
    await writeSync('\0\n')
    await expectText(`${chunk}\0\n`)
  })

  atOnce('what a stalled target cannot take at once is handed over later, in its order', async (world, writeSync) => {
    const { sink, place, expectText } = world
    if (place.stall === undefined) return
    await sink.write('before\n')
    const release = await place.stall()
    const write = handled(sink.write('in flight\n'))
    const answer = writeSync('at once\n')
    const text = 'before\nin flight\nat once\n'
    // Who says that all is handed over must have handed it over in spite of the stall.
    if (answer === undefined) await expectText(text)
    else expectThat(typeof answer.then === 'function', 'writeSync must answer with nothing or a promise')
    const handedOver = handled(answer)
    release()
    await Promise.all([write, handedOver])
    await sink.write('next\n')
    await expectText(`${text}next\n`)
  })
}

function failing(test: Test): void {
  test('a write that fails rejects, and what it was given never arrives', async ({ sink, place, expectText }) => {
    if (place.fail === undefined) return
    await sink.write('before\n')
    const heal = await place.fail()
    expectThat(await rejects(() => sink.write('lost\n')), 'a write to a target that refuses it must reject')
    heal()
    await sink.write('after\n')
    await expectText('before\nafter\n')
  })

  test('a writeSync that fails says so, and what it was given never arrives', async ({ sink, place, expectText }) => {
    if (place.fail === undefined || typeof sink.writeSync !== 'function') return
    await sink.write('before\n')
    const heal = await place.fail()
    expectThat(
      await rejects(() => sink.writeSync?.('lost\n')),
      'a writeSync to a target that refuses it must throw, or answer with a promise that rejects',
    )
    heal()
    await sink.writeSync('after\n')
    await expectText('before\nafter\n')
  })

  test('a write that waits for a stalled target does not settle before it is handed over', async (world) => {
    const { sink, place, expectText, text } = world
    if (place.stall === undefined) return
    const release = await place.stall()
    const order: string[] = []
    const write = handled(sink.write('a\n')).then(() => order.push('written'))
    for (let turn = 0; turn < 20; turn++) await nextTurn()
    expectEqual([order, await text()], [[], ''], 'what was said, and what arrived, while the target stood still')
    release()
    await write
    await expectText('a\n')
  })
}

function reopening(test: Test): void {
  test('reopen loses nothing, and goes on behind what is there', async ({ sink, expectText }) => {
    if (typeof sink.reopen !== 'function') return
    await sink.write('before\n')
    await sink.reopen()
    await sink.reopen()
    await sink.write('after\n')
    await expectText('before\nafter\n')
  })

  test('writes go to the target that was moved away until reopen, and to the new one from then on', async (world) => {
    const { sink, place, expectText } = world
    if (typeof sink.reopen !== 'function' || place.rotate === undefined) return
    await sink.write('before\n')
    const old = await place.rotate()
    await sink.write('meanwhile\n')
    await sink.reopen()
    await sink.write('after\n')
    expectEqual(decode(old()), 'before\nmeanwhile\n', 'what the old target has')
    await expectText('after\n')
  })

  test('writeSync after reopen goes to the new target', async ({ sink, place, expectText }) => {
    if (typeof sink.reopen !== 'function' || typeof sink.writeSync !== 'function' || place.rotate === undefined) return
    await sink.write('before\n')
    const old = await place.rotate()
    await sink.reopen()
    await sink.writeSync('after\n')
    expectEqual(decode(old()), 'before\n', 'what the old target has')
    await expectText('after\n')
  })
}

function closing(test: Test): void {
  test('close leaves what was handed over, and may be called again', async ({ sink, expectText }) => {
    if (typeof sink.close !== 'function') return
    await sink.write('a\n')
    await sink.writeSync?.('b\n')
    await sink.close()
    await sink.close()
    await expectText(typeof sink.writeSync === 'function' ? 'a\nb\n' : 'a\n')
  })

  test('after close nothing is taken', async ({ sink, expectText }) => {
    if (typeof sink.close !== 'function') return
    await sink.write('a\n')
    await sink.close()
    expectThat(await rejects(() => sink.write('late\n')), 'a write after close must reject')
    if (typeof sink.writeSync === 'function') {
      expectThat(await rejects(() => sink.writeSync?.('late\n')), 'a writeSync after close must throw')
    }
    await expectText('a\n')
  })

  test('a sink that has written nothing can be closed', async ({ sink, expectText }) => {
    if (typeof sink.close !== 'function') return
    await sink.close()
    await expectText('')
  })
}

type WriteSync = (chunk: string) => void | PromiseLike<void>

/** One case's surroundings. */
class World {
  readonly place: LogSinkPlace
  readonly sink: LogSink

  constructor(place: LogSinkPlace, sink: LogSink) {
    this.place = place
    this.sink = sink
  }

  /** What has arrived. Asks within the turn, before anything else can happen. */
  text = (): string | PromiseLike<string> => {
    const read = this.place.read()
    return typeof read === 'string' || read instanceof Uint8Array ? decode(read) : read.then(decode)
  }

  expectText = async (expected: string): Promise<void> => {
    const got = await this.text()
    if (got === expected) return
    let at = 0
    while (got[at] === expected[at]) at++
    const [gotThere, expectedThere] = [got, expected].map((text) => JSON.stringify(text.slice(at, at + 40)))
    throw new Error(
      `what arrived differs at character ${at} of ${expected.length} (it has ${got.length}): expected ${expectedThere}, got ${gotThere}`,
    )
  }
}

function decode(read: string | Uint8Array): string {
  // A mark at the beginning is text like any other.
  return typeof read === 'string' ? read : new TextDecoder('utf-8', { ignoreBOM: true }).decode(read)
}

function lines(what: string, count: number): string {
  return Array.from({ length: count }, (_, i) => `${what} ${i}\n`).join('')
}

async function rejects(call: () => unknown): Promise<boolean> {
  try {
    await call()
    return false
  } catch {
    return true
  }
}

/** A promise of something whose rejection is looked at later. */
function handled(answer: void | PromiseLike<void>): Promise<void> {
  const promise = Promise.resolve(answer)
  promise.catch(() => undefined)
  return promise
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => (typeof setImmediate === 'function' ? setImmediate(resolve) : setTimeout(resolve)))
}
