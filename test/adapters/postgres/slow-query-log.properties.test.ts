import fc from 'fast-check'
import { type PGliteLike, SlowQueryLog, type StatementOrder } from 'spillway/postgres'
import { FakeClock, seededRandom } from 'spillway/testing'
import { expect, test } from 'vitest'

type Step =
  | { readonly kind: 'query'; readonly text: string }
  | { readonly kind: 'answer' | 'fail'; readonly which: number }
  | { readonly kind: 'pass'; readonly ms: number }

const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ kind: fc.constant('query' as const), text: fc.constantFrom('a', 'b', 'c', 'd', 'a longer one') }),
  fc.record({ kind: fc.constantFrom('answer' as const, 'fail' as const), which: fc.nat(5) }),
  fc.record({ kind: fc.constant('pass' as const), ms: fc.nat(80_000) }),
)

/** What answers when the test says so. */
class Scripted implements PGliteLike {
  readonly open: { text: string; resolve: (answer: never) => void; reject: (error: Error) => void }[] = []

  query<Row>(text: string): Promise<{ rows: Row[] }> {
    if (text === 'd') throw new TypeError('refused at once')
    return new Promise((resolve, reject) => this.open.push({ text, resolve: resolve as never, reject }))
  }
  exec(text: string): Promise<unknown> {
    return this.query(text)
  }
  transaction(): Promise<never> {
    throw new Error('not asked for')
  }
}

test('the books balance after every step, and every answer is the one that was given', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), fc.integer(), async (steps, seed) => {
      const clock = new FakeClock()
      const database = new Scripted()
      const log = new SlowQueryLog(database, {
        clock,
        random: seededRandom(seed),
        maxPerMinute: 3,
        sampleRate: 0.7,
        maxStatements: 2,
        maxTextLength: 5,
      })
      let told = 0
      log.on('slow', () => told++)
      const outcomes: Promise<unknown>[] = []
      const expected: unknown[] = []
      let taken = 0
      let before = log.stats()

      for (const { kind, ...rest } of steps) {
        const { text = '', which = 0, ms = 0 } = rest as { text?: string; which?: number; ms?: number }
        if (kind === 'pass') await clock.advance(ms)
        else if (kind === 'query') {
          if (text === 'd') expect(() => database.query(text)).toThrow(TypeError)
          else {
            taken++
            outcomes.push(
              database.query(text).then(
                ({ rows }) => rows,
                (error) => error,
              ),
            )
          }
        } else {
          const [one] = database.open.splice(which % Math.max(1, database.open.length), 1)
          if (one === undefined) continue
          const answer = kind === 'answer' ? [one.text] : new Error(one.text)
          expected.push(answer)
          if (kind === 'answer') one.resolve({ rows: answer } as never)
          else one.reject(answer as Error)
          await clock.advance(0)
        }
        const stats = log.stats()
        expect(stats.offered).toBe(taken)
        expect(stats.offered).toBe(stats.succeeded + stats.failed + stats.pending)
        expect(stats.pending).toBe(database.open.length)
        expect(stats.slow).toBe(stats.reported + stats.suppressed)
        expect(stats.reported).toBe(told)
        expect(stats.statements).toBeLessThanOrEqual(2)
        for (const name of ['offered', 'succeeded', 'failed', 'slow', 'reported', 'suppressed'] as const) {
          expect(stats[name]).toBeGreaterThanOrEqual(before[name])
        }
        before = stats
      }
      for (const one of database.open.splice(0)) one.resolve({ rows: [] } as never)
      const answers = await Promise.all(outcomes)
      for (const answer of expected) expect(answers).toContain(answer)
      for (const by of ['total', 'count', 'max'] satisfies StatementOrder[]) {
        const top = log.top({ by })
        const amounts = top.map(({ totalMs, count, latencyMs }) => ({ total: totalMs, count, max: latencyMs.max })[by])
        expect(amounts).toEqual([...amounts].sort((a, b) => b - a))
      }
      await log.close()
      expect(Object.hasOwn(database, 'query')).toBe(false)
    }),
    { numRuns: 150 },
  )
})
