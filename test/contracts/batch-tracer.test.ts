import type { BatchTracer } from 'spillway'
import { batchTracerContract } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { failingCases } from './support/failing-cases.js'

const sound: BatchTracer = { enter: () => undefined, run: (_, attempt) => attempt() }

describe('a tracer that does nothing keeps the contract of batch tracers', () => {
  for (const { name, run } of batchTracerContract({ open: () => sound })) test(name, run)
})

/** Tracers that are broken in one way each, with a case that must tell. */
const mutants: readonly (readonly [string, Partial<BatchTracer>, string])[] = [
  [
    'tries twice',
    {
      run: (_, attempt) => {
        attempt()
        return attempt()
      },
    },
    'run calls the attempt once, before it returns, and answers what that answers',
  ],
  [
    'tries later',
    { run: (_, attempt) => Promise.resolve().then(attempt) as never },
    'run calls the attempt once, before it returns, and answers what that answers',
  ],
  [
    'wraps rejections',
    {
      run: (_, attempt) => {
        const answer = attempt()
        if (!(answer instanceof Promise)) return answer
        return answer.catch((cause: unknown) => Promise.reject(new Error('traced', { cause }))) as never
      },
    },
    'run answers the promise of the attempt, or one that settles as that does',
  ],
  [
    'swallows what an attempt throws',
    {
      run: (_, attempt) => {
        try {
          return attempt()
        } catch {
          return undefined as never
        }
      },
    },
    'run throws what the attempt throws',
  ],
  [
    'insists on a trace',
    {
      enter: () => {
        throw new Error('no trace')
      },
    },
    'enter never throws, with a trace and without one',
  ],
  [
    'takes a few origins only',
    {
      run: ({ origins }, attempt) => {
        if (origins.length > 64) throw new Error('too many')
        return attempt()
      },
    },
    'origins are what enter answered, none of them or many',
  ],
  [
    'reads what undefined origins have',
    {
      enter: () => ({ trace: 1 }),
      run: ({ origins }, attempt) => {
        for (const origin of origins) void (origin as { trace: number }).trace
        return attempt()
      },
    },
    'origins that lead nowhere do no harm',
  ],
  [
    'has one attempt at a time',
    (() => {
      let running = false
      return {
        run: (_: unknown, attempt: () => unknown) => {
          const end = (): void => {
            running = false
          }
          if (running) throw new Error('busy')
          running = true
          const answer = attempt()
          if (answer instanceof Promise) answer.then(end, end)
          else end()
          return answer
        },
      } as Partial<BatchTracer>
    })(),
    'attempts may overlap, and be made within one another',
  ],
  [
    'writes on the batch',
    {
      run: (batch, attempt) => {
        if (Reflect.get(batch, 'attempts') === undefined) Object.assign(batch, { attempts: 1 })
        return attempt()
      },
    },
    'a batch may be tried several times',
  ],
]

describe('the contract of batch tracers', () => {
  test.each(mutants)('fails a tracer that %s', async (_, broken, name) => {
    const cases = batchTracerContract({ open: () => ({ ...sound, ...broken }) })

    expect(await failingCases(cases.filter((one) => one.name === name))).toEqual([name])
  })

  test('has no case that no broken tracer fails', () => {
    const names = batchTracerContract({ open: () => sound }).map(({ name }) => name)

    expect(names.filter((name) => !mutants.some(([, , told]) => told === name))).toEqual([])
  })

  test('runs in a trace where there is one', async () => {
    let depth = 0
    let entered = 0
    const tracer: BatchTracer = {
      ...sound,
      enter: () => {
        entered += depth
        return undefined
      },
    }
    const inTrace = <T>(run: () => T): T => {
      depth++
      try {
        return run()
      } finally {
        depth--
      }
    }

    expect(await failingCases(batchTracerContract({ open: () => tracer, inTrace }))).toEqual([])
    expect(entered).toBeGreaterThan(100)
  })
})
