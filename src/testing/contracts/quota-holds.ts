import type { SettleOutcome } from '../../core/ports.js'
import { maxUsage } from '../../internal/usage.js'
import { expectEqual, expectThat } from './contract.js'
import {
  expectClaim,
  expectOutcome,
  expectSettled,
  expectTally,
  longMs,
  nothing,
  type QuotaTest,
} from './quota-world.js'

/** How long the holds last that a case lets expire: short, since a real server's clock can't be advanced. */
const shortMs = 60
/** What is waited for beyond that: timers are rounded, and so are the clocks of servers. */
const marginMs = 60

/** What every store does with reservations. */
export function holdCases(test: QuotaTest): void {
  reserveCases(test)
  settleCases(test)
  releaseCases(test)
  expiryCases(test)
}

function reserveCases(test: QuotaTest): void {
  test('reserve holds what fits, and refuses what does not', async (world) => {
    await world.consume(3, 10)
    expectOutcome(await world.reserve(4, { limit: 10 }), 'held', { used: 3, held: 4 })
    const refused = await world.reserve(4, { limit: 10 })
    expectOutcome(refused, 'exceeded', { used: 3, held: 4 })
    expectEqual(refused.expiresAt, 0, 'when it ends')
    expectOutcome(await world.reserve(3, { limit: 10 }), 'held', { used: 3, held: 7 })
    expectOutcome(await world.consume(1, 10), 'exceeded', { used: 3, held: 7 })
    expectOutcome(await world.reserve(1, { limit: Number.POSITIVE_INFINITY }), 'held', { used: 3, held: 8 })
    expectOutcome(await world.reserve(0, { limit: 11 }), 'held', { used: 3, held: 8 })
    expectOutcome(await world.reserve(maxUsage - 10, { limit: Number.POSITIVE_INFINITY }), 'exceeded', {
      used: 3,
      held: 8,
    })
    await world.expectUsage({ used: 3, held: 8 })
  })

  test('reserve says when the hold ends, on the clock of the store', async (world) => {
    const [short, long] = [await world.reserve(1, { ttlMs: longMs }), await world.reserve(1, { ttlMs: 2 * longMs })]
    const apart = long.expiresAt - short.expiresAt
    expectThat(
      Number.isFinite(short.expiresAt) && apart >= longMs && apart < longMs + 60_000,
      `holds of ${longMs} and ${2 * longMs} ms must end that far apart, got ${short.expiresAt} and ${long.expiresAt}`,
    )
    // Neither seconds nor a monotonic clock: this millennium, in milliseconds.
    expectThat(short.expiresAt > 946_684_800_000, `it must be milliseconds since the epoch, got ${short.expiresAt}`)
  })

  test('a reservation that is made again is the same one, held once', async (world) => {
    const id = world.name('hold')
    const first = await world.reserve(4, { id, limit: 10 })
    await world.elapse(5)
    const again = await world.reserve(4, { id, limit: 10 })
    expectOutcome(again, 'repeated', { used: 0, held: 4 })
    expectEqual(again.expiresAt, first.expiresAt, 'when it ends')
    const elsewhere = await world.reserve(4, { id, limit: 3, ttlMs: 1000, store: await world.openStore() })
    expectOutcome(elsewhere, 'repeated', { used: 0, held: 4 })
    expectEqual(elsewhere.expiresAt, first.expiresAt, 'when it ends, whatever limit and ttl it is made again with')
    await world.expectUsage({ used: 0, held: 4 })
  })

  test('a reservation that is made 20 times at once is held once', async (world) => {
    const stores = await world.openStores(4)
    const id = world.name('hold')
    const outcomes = await Promise.all(
      Array.from({ length: 20 }, (_, i) => world.reserve(3, { id, limit: 10, store: stores[i % 4] })),
    )
    expectTally(outcomes, { held: 1, repeated: 19 })
    expectEqual(new Set(outcomes.map(({ expiresAt }) => expiresAt)).size, 1, 'how many ends it has')
    await world.expectUsage({ used: 0, held: 3 })
  })

  test("a reservation's id that is in use for another claim is a conflict, without effect", async (world) => {
    const id = world.name('hold')
    await world.reserve(4, { id })
    const others = [{ user: 'v' }, { type: 'tokens' }, { kind: 'day' as const }]
    for (const other of others) {
      const outcome = await world.reserve(4, { id, ...other })
      expectOutcome(outcome, 'conflict', nothing)
      expectEqual(outcome.expiresAt, 0, 'when it ends')
      await world.expectUsage(nothing, world.key(other.user, other.type, other.kind))
    }
    expectOutcome(await world.reserve(5, { id }), 'conflict', { used: 0, held: 4 })
    await world.expectUsage({ used: 0, held: 4 })
    expectEqual((await world.store.settle(id, 4)).status, 'settled', 'what became of the settle')
    await world.expectUsage({ used: 4, held: 0 })
  })

  test("a reservation's id that is over is a conflict", async (world) => {
    const [settled, released] = [world.name('settled'), world.name('released')]
    await world.reserve(1, { id: settled })
    await world.store.settle(settled, 1)
    await world.reserve(1, { id: released })
    await world.store.release(released)
    for (const id of [settled, released]) {
      expectOutcome(await world.reserve(1, { id }), 'conflict', { used: 1, held: 0 })
      expectOutcome(await world.reserve(2, { id }), 'conflict', { used: 1, held: 0 })
    }
    await world.expectUsage({ used: 1, held: 0 })
  })

  test('a reservation that was refused is not remembered', async (world) => {
    const id = world.name('hold')
    expectOutcome(await world.reserve(11, { id, limit: 10 }), 'exceeded', nothing)
    expectOutcome(await world.reserve(10, { id, limit: 10 }), 'held', { used: 0, held: 10 })
  })

  test("a reservation's id is no request's id", async (world) => {
    const id = world.name('r')
    expectOutcome(await world.consume(1, 10, { id }), 'applied', { used: 1, held: 0 })
    expectOutcome(await world.reserve(2, { id, limit: 10 }), 'held', { used: 1, held: 2 })
    expectEqual((await world.store.settle(id, 2)).status, 'settled', 'what became of the settle')
    await world.expectUsage({ used: 3, held: 0 })
  })

  test('a hold takes room from its own key only', async (world) => {
    await world.reserve(10, { limit: 10 })
    const others = [{ user: 'v' }, { type: 'tokens' }, { kind: 'day' as const }]
    for (const other of others) expectOutcome(await world.consume(10, 10, other), 'applied', { used: 10, held: 0 })
    expectOutcome(await world.consume(1, 10), 'exceeded', { used: 0, held: 10 })
  })
}

function settleCases(test: QuotaTest): void {
  test('settle counts what was used, less than was held or as much', async (world) => {
    const [a, b, c] = ['a', 'b', 'c'].map((name) => world.name(name)) as [string, string, string]
    for (const id of [a, b, c]) await world.reserve(3, { id, limit: 9 })
    expectSettled(await world.store.settle(a, 1), 'settled', { used: 1, held: 6 })
    expectSettled(await world.store.settle(b, 3), 'settled', { used: 4, held: 3 })
    expectSettled(await world.store.settle(c, 0), 'settled', { used: 4, held: 0 })
    await world.expectUsage({ used: 4, held: 0 })
    expectOutcome(await world.consume(5, 9), 'applied', { used: 9, held: 0 })
  })

  test('settle counts more than was held where it fits, and changes nothing where it does not', async (world) => {
    const id = world.name('hold')
    await world.reserve(4, { id, limit: 10 })
    await world.consume(3, 10)
    expectSettled(await world.store.settle(id, 8), 'exceeded', { used: 3, held: 4 })
    await world.expectUsage({ used: 3, held: 4 })
    expectSettled(await world.store.settle(id, 7), 'settled', { used: 10, held: 0 })
    await world.expectUsage({ used: 10, held: 0 })
  })

  test('settle counts what was held, even if what was written has passed the limit meanwhile', async (world) => {
    const id = world.name('hold')
    await world.reserve(4, { id, limit: 10 })
    await world.write([world.use(20)])
    expectSettled(await world.store.settle(id, 5), 'exceeded', { used: 20, held: 4 })
    expectSettled(await world.store.settle(id, 4), 'settled', { used: 24, held: 0 })
  })

  test('settle minds the limit of its own that a reservation was made with', async (world) => {
    const [a, b] = [world.name('a'), world.name('b')]
    expectOutcome(await world.reserve(5, { id: a, limit: 4, settleLimit: 10 }), 'exceeded', nothing)
    expectOutcome(await world.reserve(4, { id: a, limit: 4, settleLimit: 10 }), 'held', { used: 0, held: 4 })
    expectSettled(await world.store.settle(a, 11), 'exceeded', { used: 0, held: 4 })
    const { claim, status } = await world.store.settle(a, 9)
    expectEqual(status, 'settled', 'what became of the settle')
    expectClaim(claim, { ...world.key(), value: 4, limit: 10, id: a })
    await world.reserve(0, { id: b, limit: 9, settleLimit: 10, ttlMs: shortMs })
    await world.elapse(shortMs + marginMs)
    expectSettled(await world.store.settle(b, 2), 'exceeded', { used: 9, held: 0 })
    expectSettled(await world.store.settle(b, 1), 'settled', { used: 10, held: 0 })
  })

  test('settle takes Infinity and fractions as limits of its own', async (world) => {
    const [a, b] = [world.name('a'), world.name('b')]
    await world.reserve(4, { id: a, limit: 4.5, settleLimit: Number.POSITIVE_INFINITY })
    expectSettled(await world.store.settle(a, 1000), 'settled', { used: 1000, held: 0 })
    expectOutcome(await world.reserve(2, { id: b, user: 'v', limit: 1.5 }), 'exceeded', nothing)
    await world.reserve(1, { id: b, user: 'v', limit: 1.5, settleLimit: 2.5 })
    expectSettled(await world.store.settle(b, 3), 'exceeded', { used: 0, held: 1 })
    expectSettled(await world.store.settle(b, 2.5), 'settled', { used: 2.5, held: 0 })
  })

  test('settle never counts beyond 2^53 - 1', async (world) => {
    const id = world.name('hold')
    await world.reserve(4, { id })
    await world.write([world.use(maxUsage - 3)])
    expectSettled(await world.store.settle(id, 4), 'exceeded', { used: maxUsage - 3, held: 4 })
    expectSettled(await world.store.settle(id, 3), 'settled', { used: maxUsage, held: 0 })
  })

  test('settle tells the reservation as it was made', async (world) => {
    const id = world.name('hold')
    await world.reserve(4, { id, limit: 10 })
    const expected = { ...world.key(), value: 4, limit: 10, id }
    expectClaim((await world.store.settle(id, 11)).claim, expected)
    expectClaim((await world.store.settle(id, 2)).claim, expected)
    const open = world.name('open')
    await world.reserve(1, { id: open, limit: Number.POSITIVE_INFINITY })
    const { claim } = await world.store.settle(open, 1)
    expectClaim(claim, { ...expected, value: 1, limit: Number.POSITIVE_INFINITY, id: open })
  })

  test('a settle that comes again changes nothing, whatever it says', async (world) => {
    const id = world.name('hold')
    await world.reserve(4, { id, limit: 10 })
    expectEqual((await world.store.settle(id, 3)).status, 'settled', 'what became of the first one')
    const other = await world.openStore()
    for (const [store, actual] of [
      [world.store, 3],
      [other, 1],
      [other, 100],
    ] as const) {
      expectEqual((await store.settle(id, actual)).status, 'repeated', 'what became of another one')
    }
    await world.expectUsage({ used: 3, held: 0 })
  })

  test('settles of one reservation that come at once count once', async (world) => {
    const stores = await world.openStores(4)
    const id = world.name('hold')
    await world.reserve(4, { id })
    const outcomes = await Promise.all(Array.from({ length: 12 }, (_, i) => stores[i % 4]?.settle(id, 3)))
    expectTally(outcomes as SettleOutcome[], { settled: 1, repeated: 11 })
    await world.expectUsage({ used: 3, held: 0 })
  })

  test('of a settle and a release that come at once, one happens', async (world) => {
    const other = await world.openStore()
    for (let round = 0; round < 8; round++) {
      const user = `u${round}`
      const id = world.name(user)
      await world.reserve(4, { id, user })
      const settle = (): PromiseLike<SettleOutcome> => world.store.settle(id, 3)
      const release = (): PromiseLike<void> => other.release(id)
      const [a, b] = await Promise.all(round % 2 === 0 ? [settle(), release()] : [release(), settle()])
      const status = (a ?? b)?.status
      expectThat(status === 'settled' || status === 'released', `what became of the settle: ${status}`)
      await world.expectUsage({ used: status === 'settled' ? 3 : 0, held: 0 }, world.key(user))
    }
  })

  test('settling what is unknown or was released says so, and counts nothing', async (world) => {
    expectEqual((await world.store.settle(world.name('nobody'), 1)).status, 'unknown', 'what became of it')
    const id = world.name('hold')
    await world.reserve(4, { id })
    await world.store.release(id)
    for (let round = 0; round < 2; round++) {
      expectEqual((await world.store.settle(id, 1)).status, 'released', 'what became of it')
    }
    await world.expectUsage(nothing)
  })

  test('settle takes fractions', async (world) => {
    const ids = Array.from({ length: 10 }, (_, i) => world.name(`f${i}`))
    for (const id of ids) await world.reserve(0.1, { id, limit: 1.5 })
    await world.reserve(0.25, { id: world.name('binary'), limit: 1.5 })
    for (const id of ids) await world.store.settle(id, 0.1)
    const [usage] = await world.store.readUsage([world.key()])
    expectThat(Math.abs((usage?.used ?? 0) - 1) < 1e-9, `ten times 0.1 must be 1, nearly, got ${usage?.used}`)
    expectThat(
      Math.abs((usage?.held ?? 0) - 0.25) < 1e-9,
      `what is still held must be 0.25, nearly, got ${usage?.held}`,
    )
    await world.store.settle(world.name('binary'), 0.25)
    expectEqual((await world.store.readUsage([world.key()]))[0]?.held, 0, 'what is held when all holds are over')
  })
}

function releaseCases(test: QuotaTest): void {
  test('release gives back what was held', async (world) => {
    const id = world.name('hold')
    await world.reserve(10, { id, limit: 10 })
    await world.store.release(id)
    await world.expectUsage(nothing)
    expectOutcome(await world.consume(10, 10), 'applied', { used: 10, held: 0 })
  })

  test('release of what is over or unknown does nothing', async (world) => {
    const id = world.name('hold')
    await world.reserve(4, { id })
    await world.reserve(5, {})
    await world.store.release(id)
    await world.store.release(id)
    await world.store.release(world.name('nobody'))
    await world.expectUsage({ used: 0, held: 5 })
    const settled = world.name('settled')
    await world.reserve(1, { id: settled })
    await world.store.settle(settled, 1)
    await world.store.release(settled)
    expectEqual((await world.store.settle(settled, 1)).status, 'repeated', 'what becomes of a settle after that')
    await world.expectUsage({ used: 1, held: 5 })
  })

  test('releases of one reservation that come at once give it back once', async (world) => {
    const stores = await world.openStores(4)
    const id = world.name('hold')
    await world.reserve(4, { id })
    await world.reserve(5, {})
    await Promise.all(Array.from({ length: 12 }, (_, i) => stores[i % 4]?.release(id)))
    await world.expectUsage({ used: 0, held: 5 })
  })
}

function expiryCases(test: QuotaTest): void {
  test('a hold that expires gives its room back', async (world) => {
    const first = await world.reserve(6, { limit: 10, ttlMs: shortMs })
    const second = await world.reserve(4, { limit: 10 })
    expectEqual([first.status, second.status], ['held', 'held'], 'what became of the holds')
    await world.elapse(shortMs + marginMs)
    await world.expectUsage({ used: 0, held: 4 })
    expectOutcome(await world.consume(2, 10), 'applied', { used: 2, held: 4 })
    expectOutcome(await world.reserve(4, { limit: 10 }), 'held', { used: 2, held: 8 })
    expectOutcome(await world.consume(1, 10), 'exceeded', { used: 2, held: 8 })
  })

  test('holds expire each at its own time, whatever came first', async (world) => {
    const ttls = [longMs, shortMs, longMs, shortMs]
    for (const [i, ttlMs] of ttls.entries()) await world.reserve(10 ** i, { ttlMs })
    await world.elapse(shortMs + marginMs)
    await world.expectUsage({ used: 0, held: 101 })
  })

  test('settle after expiry counts all of it where it fits, and changes nothing where it does not', async (world) => {
    const [a, b] = [world.name('a'), world.name('b')]
    await world.reserve(4, { id: a, limit: 10, ttlMs: shortMs })
    await world.reserve(4, { id: b, limit: 10, ttlMs: shortMs })
    await world.elapse(shortMs + marginMs)
    await world.consume(5, 10)
    await world.reserve(2, { limit: 10 })
    expectSettled(await world.store.settle(a, 4), 'exceeded', { used: 5, held: 2 })
    expectSettled(await world.store.settle(a, 3), 'settled', { used: 8, held: 2 })
    expectSettled(await world.store.settle(b, 1), 'exceeded', { used: 8, held: 2 })
    expectSettled(await world.store.settle(b, 0), 'settled', { used: 8, held: 2 })
    for (const id of [a, b]) expectEqual((await world.store.settle(id, 1)).status, 'repeated', 'what became of it')
    await world.expectUsage({ used: 8, held: 2 })
  })

  test('a settle is the first to find that a hold has expired, and counts it only where it fits', async (world) => {
    const [a, b] = [world.name('a'), world.name('b')]
    await world.reserve(4, { id: a, limit: 10, ttlMs: shortMs })
    await world.write([world.use(8)])
    await world.reserve(4, { id: b, limit: 10, user: 'v', ttlMs: shortMs })
    await world.elapse(shortMs + marginMs)
    expectSettled(await world.store.settle(a, 4), 'exceeded', { used: 8, held: 0 })
    expectSettled(await world.store.settle(b, 4), 'settled', { used: 4, held: 0 })
  })

  test('a reservation that is made again with more time ends no later', async (world) => {
    const id = world.name('hold')
    await world.reserve(4, { id, limit: 10, ttlMs: shortMs })
    const { status } = await world.reserve(4, { id, limit: 10, ttlMs: longMs })
    // On a slow day it has expired by now.
    expectThat(status === 'repeated' || status === 'conflict', `what became of it when made again: ${status}`)
    await world.elapse(shortMs + marginMs)
    await world.expectUsage(nothing)
  })

  test('settles after expiry that come at once count once', async (world) => {
    const stores = await world.openStores(4)
    const id = world.name('hold')
    await world.reserve(4, { id, limit: 10, ttlMs: shortMs })
    await world.elapse(shortMs + marginMs)
    const outcomes = await Promise.all(Array.from({ length: 12 }, (_, i) => stores[i % 4]?.settle(id, 3)))
    expectTally(outcomes as SettleOutcome[], { settled: 1, repeated: 11 })
    await world.expectUsage({ used: 3, held: 0 })
  })

  for (const seen of [false, true]) {
    const when = seen ? 'that was seen' : 'that nobody saw'
    test(`release after an expiry ${when} gives nothing back twice, and rules a later settle out`, async (world) => {
      const id = world.name('hold')
      await world.reserve(4, { id, ttlMs: shortMs })
      await world.reserve(5, {})
      await world.elapse(shortMs + marginMs)
      if (seen) await world.expectUsage({ used: 0, held: 5 })
      await world.store.release(id)
      await world.expectUsage({ used: 0, held: 5 })
      expectEqual((await world.store.settle(id, 1)).status, 'released', 'what becomes of a settle after that')
      await world.expectUsage({ used: 0, held: 5 })
    })
  }

  test("a reservation's id that has expired is a conflict", async (world) => {
    const id = world.name('hold')
    await world.reserve(4, { id, limit: 10, ttlMs: shortMs })
    await world.elapse(shortMs + marginMs)
    expectOutcome(await world.reserve(4, { id, limit: 10 }), 'conflict', nothing)
    await world.expectUsage(nothing)
  })

  test('a hold that was settled or released before it would expire expires no more', async (world) => {
    const [settled, released] = [world.name('settled'), world.name('released')]
    await world.reserve(1, { id: settled, ttlMs: shortMs })
    await world.reserve(2, { id: released, ttlMs: shortMs })
    await world.reserve(5, {})
    await world.store.settle(settled, 1)
    await world.store.release(released)
    await world.elapse(shortMs + marginMs)
    await world.expectUsage({ used: 1, held: 5 })
  })
}
