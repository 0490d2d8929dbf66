import type { LogSink } from 'spillway'
import { type ContractCase, type LogSinkPlace, logSinkContract, MemoryLogSink } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { failingCases } from './support/failing-cases.js'

/** A place for a sink in memory, or for one that stands in front of it. */
function placeOf(memory: MemoryLogSink, sink: LogSink = memory): LogSinkPlace {
  return {
    open: () => sink,
    read: () => memory.text,
    rotate: () => {
      memory.rotate()
      const moved = memory.rotated.length - 1
      return () => memory.rotated[moved] as string
    },
    stall: () => {
      memory.block()
      return () => memory.unblock()
    },
    fail: () => {
      memory.fail()
      return () => memory.heal()
    },
  }
}

describe('MemoryLogSink keeps the contract of log sinks', () => {
  for (const { name, run } of logSinkContract({ place: () => placeOf(new MemoryLogSink()) })) test(name, run)
})

describe('MemoryLogSink whose writes take time keeps the contract of log sinks', () => {
  for (const { name, run } of logSinkContract({ place: () => placeOf(new MemoryLogSink({ delayMs: 1 })) })) {
    test(name, { timeout: 30_000 }, run)
  }
})

describe('a sink that can only write keeps the contract of log sinks', () => {
  const place = (): LogSinkPlace => {
    const chunks: Uint8Array[] = []
    const bytes = (): Uint8Array => Uint8Array.from(chunks.flatMap((chunk) => [...chunk]))
    return {
      open: async () => ({ write: (chunk) => void chunks.push(new TextEncoder().encode(chunk)) }),
      read: async () => bytes(),
    }
  }
  for (const { name, run } of logSinkContract({ place })) test(name, run)
})

/** What a broken sink does otherwise than the one behind it. */
type Broken = (memory: MemoryLogSink) => Partial<LogSink>

const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
/** Does something after its caller has gone, so that nobody hears of its failure. */
const later = (work: () => unknown): void =>
  void nextTurn()
    .then(work)
    .catch(() => undefined)
const sync = (memory: MemoryLogSink, chunk: string): void | PromiseLike<void> => memory.writeSync?.(chunk)

/** Sinks that are broken in one way each, with a case that must tell. */
const mutants: readonly (readonly [string, Broken, string])[] = [
  [
    'says that it has written before it has',
    (memory) => ({ write: async (chunk) => later(() => memory.write(chunk)) }),
    'a chunk has arrived when its write settles',
  ],
  [
    'begins anew with each chunk',
    (memory) => ({
      write: async (chunk) => {
        memory.rotate()
        await memory.reopen()
        return memory.write(chunk)
      },
    }),
    'chunks arrive in the order of their writes, each once',
  ],
  [
    'adds an end to each chunk',
    (memory) => ({ write: (chunk) => memory.write(`${chunk}\n`) }),
    'text arrives as it is, in UTF-8, with nothing added',
  ],
  [
    'writes Latin-1',
    (memory) => ({ write: (chunk) => memory.write(Buffer.from(chunk, 'latin1').toString('latin1')) }),
    'text arrives as it is, in UTF-8, with nothing added',
  ],
  [
    'cuts characters at 64 KiB',
    (memory) => ({
      write: (chunk) => {
        const bytes = Buffer.from(chunk)
        let text = ''
        for (let at = 0; at < bytes.length; at += 65_536) text += bytes.subarray(at, at + 65_536).toString()
        return memory.write(text)
      },
    }),
    'characters of several bytes are whole wherever they lie',
  ],
  [
    'ends a chunk at half a surrogate pair',
    (memory) => ({ write: (chunk) => memory.write(chunk.replace(/\p{Surrogate}[\s\S]*/u, '')) }),
    'half a surrogate pair does no harm to what is around it',
  ],
  [
    'takes 64 KiB of a chunk',
    (memory) => ({ write: (chunk) => memory.write(chunk.slice(0, 65_536)) }),
    'a large chunk arrives whole',
  ],
  [
    'writes an end for nothing',
    (memory) => ({ write: (chunk) => memory.write(chunk || '\n') }),
    'an empty chunk adds nothing',
  ],
  [
    'hands over later what writeSync was given',
    (memory) => ({ writeSync: (chunk) => later(() => sync(memory, chunk)) }),
    'what writeSync was given has arrived when it returns',
  ],
  [
    'keeps what writeSync is given until the next write',
    (memory) => {
      let kept = ''
      return {
        write: (chunk) => memory.write(chunk + kept),
        writeSync: (chunk) => {
          kept += chunk
        },
      }
    },
    'writeSync comes after earlier writes and before later ones',
  ],
  ...(['small', 'large'] as const).map((size) => {
    const lets: Broken = (memory) => ({ write: (chunk) => nextTurn().then(() => memory.write(chunk)) })
    const name = `a ${size} write in flight comes before writeSync, each byte once`
    return [`lets writeSync pass a ${size} write`, lets, name] as const
  }),
  [
    'writes what is in flight twice',
    (memory) => {
      let inFlight = ''
      return {
        write: async (chunk) => {
          inFlight = chunk
          await memory.write(chunk)
          await nextTurn()
          inFlight = ''
        },
        writeSync: (chunk) => sync(memory, inFlight + chunk),
      }
    },
    'a small write in flight comes before writeSync, each byte once',
  ],
  [
    'puts what writeSync is given before what it was given before that',
    (memory) => {
      const given: string[] = []
      return {
        writeSync: (chunk) => {
          given.unshift(chunk)
          return Promise.resolve().then(() => sync(memory, given.shift() ?? ''))
        },
      }
    },
    'several writeSync during one write keep their order',
  ],
  [
    'begins a write again when writeSync comes',
    (memory) => {
      let left: string | undefined
      return {
        write: async (chunk) => {
          left = chunk
          await memory.write(chunk.slice(0, 10))
          for (let turn = 0; turn < 10; turn++) await nextTurn()
          if (left !== undefined) await memory.write(chunk.slice(10))
          left = undefined
        },
        writeSync: (chunk) => {
          const again = left ?? ''
          left = undefined
          return sync(memory, again + chunk)
        },
      }
    },
    'a write that is partly done is completed, not repeated',
  ],
  [
    'does nothing in writeSync where there is nothing to write',
    (memory) => {
      let left: string | undefined
      const done = (): void | PromiseLike<void> => {
        const chunk = left
        left = undefined
        return chunk === undefined ? undefined : sync(memory, chunk)
      }
      return {
        write: async (chunk) => {
          left = chunk
          await nextTurn()
          await done()
        },
        writeSync: (chunk) => {
          if (chunk === '') return
          void done()
          return sync(memory, chunk)
        },
      }
    },
    'writeSync of nothing hands over what is in flight',
  ],
  [
    'writes Latin-1 in writeSync',
    (memory) => ({ writeSync: (chunk) => sync(memory, Buffer.from(chunk, 'latin1').toString('latin1')) }),
    'text of writeSync arrives as it is, in UTF-8',
  ],
  [
    'drops what a stalled target cannot take in writeSync',
    (memory) => {
      const late: unknown[] = []
      return {
        writeSync: (chunk) => {
          if (memory.pending === 0) return sync(memory, chunk)
          late.push(chunk)
        },
      }
    },
    'what a stalled target cannot take at once is handed over later, in its order',
  ],
  [
    'says nothing of a failure',
    (memory) => ({ write: (chunk) => memory.write(chunk).catch(() => undefined) }),
    'a write that fails rejects, and what it was given never arrives',
  ],
  [
    'tries later what has failed',
    (memory) => {
      let again = ''
      return {
        write: async (chunk) => {
          try {
            await memory.write(again + chunk)
            again = ''
          } catch (error) {
            again = chunk
            throw error
          }
        },
      }
    },
    'a write that fails rejects, and what it was given never arrives',
  ],
  [
    'says nothing of a failure in writeSync',
    (memory) => ({
      writeSync: (chunk) => {
        try {
          return sync(memory, chunk)
        } catch {
          return undefined
        }
      },
    }),
    'a writeSync that fails says so, and what it was given never arrives',
  ],
  [
    'does not wait for a target that stands still',
    (memory) => ({ write: (chunk) => Promise.race([memory.write(chunk), nextTurn()]) }),
    'a write that waits for a stalled target does not settle before it is handed over',
  ],
  [
    'begins anew when it is reopened',
    (memory) => ({
      reopen: async () => {
        memory.rotate()
        await memory.reopen()
      },
    }),
    'reopen loses nothing, and goes on behind what is there',
  ],
  [
    'does nothing when it is reopened',
    () => ({ reopen: async () => undefined }),
    'writes go to the target that was moved away until reopen, and to the new one from then on',
  ],
  [
    'reopens by itself',
    (memory) => ({
      write: async (chunk) => {
        await memory.reopen()
        return memory.write(chunk)
      },
    }),
    'writes go to the target that was moved away until reopen, and to the new one from then on',
  ],
  [
    'forgets in writeSync that it was reopened',
    () => {
      const own = new MemoryLogSink()
      return { writeSync: (chunk) => sync(own, chunk) }
    },
    'writeSync after reopen goes to the new target',
  ],
  [
    'cannot be closed twice',
    (memory) => ({
      close: async () => {
        if (memory.closed) throw new Error('closed already')
        return memory.close()
      },
    }),
    'close leaves what was handed over, and may be called again',
  ],
  ['takes chunks after close', () => ({ close: async () => undefined }), 'after close nothing is taken'],
  [
    'fails to close what was never used',
    (memory) => ({
      close: async () => {
        if (memory.chunks.length === 0) throw new Error('not open')
        return memory.close()
      },
    }),
    'a sink that has written nothing can be closed',
  ],
]

describe('the contract of log sinks', () => {
  const casesOf = (broken: Broken): readonly ContractCase[] =>
    logSinkContract({
      place: () => {
        const memory = new MemoryLogSink()
        const { writeSync } = memory
        const sound: LogSink = {
          write: (chunk) => memory.write(chunk),
          ...(writeSync === undefined ? {} : { writeSync }),
          reopen: () => memory.reopen(),
          close: () => memory.close(),
        }
        return placeOf(memory, { ...sound, ...broken(memory) })
      },
    })

  test.each(mutants)('fails a sink that %s', async (_, broken, name) => {
    expect(await failingCases(casesOf(broken).filter((one) => one.name === name))).toEqual([name])
  })

  test('fails no sink that is sound', async () => {
    expect(await failingCases(casesOf(() => ({})))).toEqual([])
  })

  test('has no case that no broken sink fails', () => {
    const names = casesOf(() => ({})).map(({ name }) => name)

    expect(names.filter((name) => !mutants.some(([, , told]) => told === name))).toEqual([])
  })
})
