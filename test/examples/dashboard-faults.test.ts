import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import type { Audit, FaultAction, Sample } from '../../examples/counter-billing/dashboard/sample.ts'
import { type PostgresServer, startPostgres } from '../servers/postgres.ts'
import { type RedisServer, startRedis } from '../servers/redis.ts'
import { askForFault, type DashboardDemo, startDashboardDemo, Viewer } from './dashboard-demo.ts'

const patience = { timeout: 60_000, interval: 100 }
const setUpMs = 200_000

const redis: RedisServer | undefined = await startRedis()
const postgres: PostgresServer | undefined = await startPostgres()
afterAll(async () => {
  await redis?.stop()
  await postgres?.stop()
})

// On servers, the faults are those of proxies in front of them; embedded ones have switches, which the tests of the page turn.
describe.skipIf(redis === undefined || postgres === undefined)('a demo on servers', { timeout: setUpMs }, () => {
  let demo: DashboardDemo

  beforeAll(async () => {
    const env = { REDIS_URL: redis?.url ?? '', DATABASE_URL: postgres?.url ?? '' }
    demo = await startDashboardDemo(['--faults', '--instances', '2', '--seconds', '600'], env)
  }, setUpMs)
  afterAll(() => demo?.stop(), setUpMs)

  async function look(): Promise<{ latest: () => Sample | undefined; ask: (action: FaultAction) => Promise<void> }> {
    const viewer = new Viewer()
    onTestFinished(() => viewer.close())
    await viewer.open(demo.url)
    await expect.poll(() => viewer.samples.length, patience).toBeGreaterThan(1)
    const ask = async (action: FaultAction): Promise<void> => {
      expect((await askForFault(demo.url, action)).status, JSON.stringify(action)).toBe(202)
    }
    return { latest: () => viewer.latest, ask }
  }

  /** Clears all faults, and returns how sums compare then. */
  async function clear({ latest, ask }: Awaited<ReturnType<typeof look>>): Promise<Audit> {
    const before = latest()?.sums?.audit?.at
    await ask({ do: 'clear' })
    await expect
      .poll(() => latest()?.sums?.audit?.at !== before && latest()?.faults?.load.state, patience)
      .toBe('running')
    return latest()?.sums?.audit as Audit
  }

  /** Each store has what was acknowledged, and at most what nobody knows of beside it. */
  function expectEqual({ equal, acknowledged, unsure, live, durable }: Audit): void {
    expect({ equal, acknowledged, unsure, live, durable }).toMatchObject({ equal: true })
    expect(acknowledged).toBeGreaterThan(0)
  }

  test.each([
    { server: 'redis', store: 'live store', other: 'durable store' },
    { server: 'postgres', store: 'durable store', other: 'live store' },
  ] as const)('loses nothing while $server is dead', async ({ server, store, other }) => {
    const demoOf = await look()
    const { latest, ask } = demoOf
    const behind = (): number => {
      const { sums } = latest() ?? {}
      const stored = server === 'redis' ? sums?.live : sums?.durable
      return (sums?.acknowledged ?? 0) - (stored ?? Number.POSITIVE_INFINITY)
    }
    await expect.poll(() => latest()?.breakers[store]?.state, patience).toBe('closed')

    await ask({ do: server, condition: 'dead' })

    await expect.poll(() => latest()?.breakers[store]?.state, patience).toBe('open')
    // The store itself is asked past the proxy, and gets nothing.
    await expect.poll(behind, patience).toBeGreaterThan(300)
    expect(latest()?.breakers[other]?.state).toBe('closed')
    expectEqual(await clear(demoOf))
    await expect.poll(() => latest()?.breakers[store]?.state, patience).toBe('closed')
    expect(latest()?.losses.lost).toBe(0)
  })

  test('waits longer for a slow server, and loses nothing', async () => {
    const demoOf = await look()

    await demoOf.ask({ do: 'redis', condition: 'slow' })
    await demoOf.ask({ do: 'postgres', condition: 'slow' })

    await expect
      .poll(() => Math.max(0, ...(demoOf.latest()?.instances ?? []).map(({ latencyMs = 0 }) => latencyMs)), patience)
      .toBeGreaterThan(200)
    expectEqual(await clear(demoOf))
  })

  test('says why it can’t do what makes no sense now', async () => {
    const { latest } = await look()
    const [instance] = latest()?.faults?.instances ?? []

    const alive = await askForFault(demo.url, { do: 'start', instance: instance?.id ?? '' })
    const unknown = await askForFault(demo.url, { do: 'kill', instance: '127.0.0.1:1' })

    expect([alive.status, unknown.status]).toEqual([409, 409])
    expect(await alive.json()).toMatchObject({ message: expect.stringContaining('is there already') })
    expect(await unknown.json()).toMatchObject({ message: expect.stringContaining('there is no counter service') })
  })

  test('ends at a Ctrl-C in the midst of an outage, with nothing lost', async () => {
    const { ask, latest } = await look()
    await ask({ do: 'kill', instance: latest()?.faults?.instances[0]?.id ?? '' })
    await ask({ do: 'redis', condition: 'dead' })
    await expect.poll(() => latest()?.breakers['live store']?.state, patience).toBe('open')

    const end = await demo.stop()

    // By its own hand, and not by SIGKILL after its time was over.
    expect(end).toBe('SIGINT')
    expect(demo.output()).not.toContain('LOST')
  })
})
