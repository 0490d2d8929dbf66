import { setTimeout as delay } from 'node:timers/promises'
import { seededRandom } from 'spillway/testing'
import { afterAll, describe, expect, test } from 'vitest'
import { startConsul } from '../servers/consul.ts'
import { startPostgres } from '../servers/postgres.ts'
import { type BillingClient, fresh, startBillingClient } from './billing-client.ts'
import type { Answer } from './counter-client.ts'
import { type ServiceProcess, startProcess } from './processes.ts'

const postgres = await startPostgres()
const consul = await startConsul()

afterAll(async () => {
  await consul?.stop()
  await postgres?.stop()
})

const answerMs = 60_000
/** Of the default tariff: so many thumbnails are free, each of the others costs 2. */
const [free, price] = [100, 2]
const service = 'thumbnail'

/** Asks until there is an answer: a request counts once, however often it is made. */
async function insist(client: BillingClient, path: string, body: object): Promise<Answer> {
  for (const deadline = Date.now() + answerMs; ; await delay(50)) {
    const answer = await client.bill(path, body)
    if (answer.status !== 503 || Date.now() > deadline) return answer
  }
}

/** What a user was told that was taken. */
function taken(answers: readonly Answer[]): { free: number; charged: number } {
  const sums = { free: 0, charged: 0 }
  for (const { status, body } of answers) {
    expect([200, 402], JSON.stringify(body)).toContain(status)
    if (status !== 200) continue
    sums.free += body.free
    sums.charged += body.charged
  }
  return sums
}

describe.skipIf(postgres === undefined)('billing services in processes of their own', () => {
  const env = { DATABASE_URL: postgres?.url ?? '', REDIS_URL: '', CONSUL_HTTP_ADDR: '' }
  const start = (port = '0', consulAt = ''): Promise<ServiceProcess> =>
    startProcess(['--role', 'billing', '--billing-port', port], { ...env, CONSUL_HTTP_ADDR: consulAt })
  const portOf = ({ url }: ServiceProcess): string => url.slice(url.lastIndexOf(':') + 1)

  test('split free uses and money exactly under parallel load, and never overspend', { timeout: 180_000 }, async () => {
    const services = await Promise.all([start(), start(), start()])
    const client = await startBillingClient({ at: services.map(({ url }) => url).join(',') })
    const user_id = fresh('ann')
    const amount = 120
    await client.bill('recharge', { request_id: 'r', user_id, amount })

    const answers = await Promise.all(
      Array.from({ length: 16 }, async (_, index) => {
        const own: Answer[] = []
        for (let n = 0; n < 14; n++) {
          const request = { request_id: `${index}-${n}`, user_id, service, count: 1 + ((index + n) % 3) }
          // Both at once, and most likely by two of the processes: they are one request.
          const [answer, twin] = await Promise.all([
            insist(client, 'deduct', request),
            n % 4 === 0 ? insist(client, 'deduct', request) : undefined,
          ])
          if (twin?.status === 200 && answer.status === 200) expect(twin.body).toEqual(answer.body)
          own.push(answer.status === 200 ? answer : (twin ?? answer))
        }
        return own
      }),
    )
    const sums = taken(answers.flat())

    // 448 uses were asked for, and 160 can be had.
    await expect.poll(async () => (await client.account(user_id, service)).heldFree, { timeout: 30_000 }).toBe(0)
    expect(await client.account(user_id, service)).toEqual({
      balance: amount - sums.charged,
      held: 0,
      free: free - sums.free,
      heldFree: 0,
    })
    for (
      let rest = 0;
      (await insist(client, 'deduct', { request_id: `rest-${rest}`, user_id, service })).status === 200;
    ) {
      expect(rest++).toBeLessThan(free + amount)
    }
    expect(await client.account(user_id, service)).toEqual({ balance: 0, held: 0, free: 0, heldFree: 0 })
  })

  test('that are killed again and again leave exact books', { timeout: 240_000 }, async () => {
    const random = seededRandom(5)
    const services = await Promise.all([start(), start()])
    const client = await startBillingClient({ at: services.map(({ url }) => url).join(',') })
    const users = Array.from({ length: 4 }, (_, index) => fresh(`user${index}`))
    const amount = 1_000
    for (const user_id of users) await client.bill('recharge', { request_id: 'r', user_id, amount })
    let killing = true
    const answers = new Map<string, { path: string; body: object; answer: Answer }[]>(users.map((user) => [user, []]))

    const load = users.flatMap((user_id) =>
      ['a', 'b', 'c'].map(async (name) => {
        const ask = async (path: string, body: object): Promise<Answer> => {
          const answer = await insist(client, path, { user_id, ...body })
          answers.get(user_id)?.push({ path, body: { user_id, ...body }, answer })
          return answer
        }
        for (let n = 0; killing; n++) {
          const request_id = `${name}-${n}`
          if (n % 3 !== 0) await ask('deduct', { request_id, service, count: 1 + (n % 4) })
          else if ((await insist(client, 'reserve', { user_id, request_id, service, count: 4 })).status === 200) {
            if (n % 2 === 0) await ask('settle', { reservation_id: request_id, count: n % 5 })
            else await insist(client, 'release', { user_id, reservation_id: request_id })
          }
        }
      }),
    )
    for (let kills = 0; kills < 4; kills++) {
      await delay(300 + 700 * random())
      const victim = kills % 2
      const killed = services[victim] as ServiceProcess
      await killed.end('SIGKILL')
      services[victim] = await start(portOf(killed))
    }
    killing = false
    await Promise.all(load)

    for (const user_id of users) {
      const own = answers.get(user_id) ?? []
      const sums = taken(own.map(({ answer }) => answer))
      const expected = { balance: amount - sums.charged, held: 0, free: free - sums.free, heldFree: 0 }
      // What the dead had begun others finish after a while.
      await expect.poll(() => client.account(user_id, service), { timeout: 60_000 }).toEqual(expected)
      expect(own.length).toBeGreaterThan(3)
      const accepted = own.filter(({ answer }) => answer.status === 200)
      for (const { path, body, answer } of accepted.slice(-5)) {
        expect((await client.bill(path, body)).body).toEqual(answer.body)
      }
      expect(await client.account(user_id, service)).toEqual(expected)
      expect(sums.charged % price).toBe(0)
    }
  })
  test.skipIf(consul === undefined)('are found through Consul, as they come and go', { timeout: 120_000 }, async () => {
    const at = consul?.address ?? ''
    const first = await start('0', at)
    const client = await startBillingClient({ at: { consul: at } })
    const user_id = fresh('ann')
    await client.bill('recharge', { request_id: 'r', user_id, amount: 7 })

    await start('0', at)
    await first.end('SIGTERM')

    expect((await insist(client, 'recharge', { request_id: 's', user_id, amount: 1 })).body.balance).toBe(8)
  })
})
