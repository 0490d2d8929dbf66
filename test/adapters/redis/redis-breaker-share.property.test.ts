import { randomUUID } from 'node:crypto'
import { setImmediate as turn } from 'node:timers/promises'
import fc from 'fast-check'
import { Redis } from 'ioredis'
import { RedisBreakerShare, type ShareableBreaker } from 'spillway/redis'
import { afterAll, describe, expect, test, vi } from 'vitest'
import { startRedis } from '../../servers/redis.ts'

const numRuns = Number(process.env['SPILLWAY_PROPERTY_RUNS'] ?? 300)
const server = await startRedis()
const clients = Array.from({ length: 3 }, () => new Redis(server?.url ?? '', { lazyConnect: true }))

afterAll(async () => {
  for (const client of clients) client.disconnect()
  await server?.stop()
})

type Act = 'trip' | 'probe fails' | 'recover' | 'reset'

/** A breaker whose calls end as the test says, without any time in it. */
class ModelBreaker implements ShareableBreaker {
  readonly name = 'model'
  state: 'closed' | 'open' = 'closed'
  readonly #listeners: { event: string; listener: (payload: never) => void }[] = []

  on(event: 'opened' | 'closed', listener: (payload: never) => void): () => void {
    this.#listeners.push({ event, listener })
    return () => undefined
  }

  stats(): { probes: number } {
    return { probes: 0 }
  }

  open(): void {
    if (this.state === 'closed') this.#become('open', 'opened', 'requested')
  }

  reset(): void {
    if (this.state === 'open') this.#become('closed', 'closed', 'reset')
  }

  /** Whether it could. */
  act(act: Exclude<Act, 'reset'>): boolean {
    if ((act === 'trip') !== (this.state === 'closed')) return false
    if (act === 'trip') this.#become('open', 'opened', 'tripped')
    else if (act === 'probe fails') this.#become('open', 'opened', 'probe-failed')
    else this.#become('closed', 'closed', 'recovered')
    return true
  }

  #become(state: 'closed' | 'open', event: 'opened' | 'closed', reason: string): void {
    this.state = state
    const payload = { reason, retryAfterMs: 60_000 } as never
    for (const one of this.#listeners) if (one.event === event) one.listener(payload)
  }
}

const step = fc.record({
  member: fc.nat({ max: 2 }),
  act: fc.constantFrom<Act>('trip', 'trip', 'probe fails', 'recover', 'recover', 'reset'),
  pause: fc.constantFrom('go on', 'go on', 'turn', 'turns', 'settle'),
})

describe.skipIf(server === undefined)('a fleet', () => {
  test(
    'agrees in the end, with what Redis remembers, and publishes no more than has happened',
    async () => {
      await fc.assert(
        fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 40 }), async (steps) => {
          const prefix = randomUUID()
          const breakers = clients.map(() => new ModelBreaker())
          // No reading in between, so that messages alone must do it.
          const shares = clients.map((client) => new RedisBreakerShare(client, { prefix, syncMs: 600_000 }))
          for (const [i, share] of shares.entries()) share.join(breakers[i] as ModelBreaker)
          expect(await Promise.all(shares.map((share) => share.start()))).toEqual([true, true, true])

          let acts = 0
          for (const { member, act, pause } of steps) {
            if (act === 'reset') shares[member]?.reset('model')
            if (act === 'reset' || breakers[member]?.act(act)) acts++
            if (pause === 'settle') await Promise.all(shares.map((share) => share.flush()))
            for (let i = { 'go on': 0, turn: 1, turns: 5, settle: 0 }[pause]; i > 0; i--) await turn()
          }

          await Promise.all(shares.map((share) => share.flush()))
          const latest = await clients[0]?.get(`{${prefix}:model}:news`)
          const expected = latest == null || JSON.parse(latest).kind === 'closed' ? 'closed' : 'open'
          await vi.waitFor(() => expect(breakers.map(({ state }) => state)).toEqual(breakers.map(() => expected)), {
            timeout: 3000,
            interval: 1,
          })
          let offered = 0
          for (const share of shares) {
            const stats = share.stats()
            offered += stats.offered - stats.outdated
            expect(stats.offered).toBe(stats.succeeded + stats.failed + stats.pending)
            expect(stats).toMatchObject({ failed: 0, pending: 0, ignored: 0 })
          }
          expect(offered).toBeLessThanOrEqual(acts)
          await Promise.all(shares.map((share) => share.close()))
        }),
        { numRuns },
      )
    },
    60_000 + numRuns * 100,
  )
})
