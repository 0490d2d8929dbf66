import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import { afterAll, describe, expect, onTestFinished, test } from 'vitest'
import { startConsul } from '../servers/consul.ts'
import { freePort } from '../servers/free-port.ts'
import { startPostgres } from '../servers/postgres.ts'
import { startRedis } from '../servers/redis.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const [lasting, caching, postgres, consul] = await Promise.all([
  startRedis({ own: true, appendonly: true, appendfsync: 'always', settings: ['--maxmemory-policy', 'noeviction'] }),
  startRedis({ own: true, settings: ['--maxmemory-policy', 'allkeys-lru'] }),
  startPostgres(),
  startConsul({ own: true }),
])
const servers = [lasting, caching, postgres, consul]
mkdirSync(`${root}/.cache`, { recursive: true })
const folder = mkdtempSync(`${root}/.cache/many-machines-`)

afterAll(async () => {
  rmSync(folder, { recursive: true, force: true })
  for (const server of servers) await server?.stop()
})

const page = readFileSync(`${root}/docs/guides/many-machines.md`, 'utf8')
const [service = '', worker = ''] = [...page.matchAll(/^```ts\n([\s\S]*?)^```$/gm)].map(([, code = '']) => code)

/** Runs code of the page, as it stands there, in a process of its own. */
function run(name: string, code: string, env: Readonly<Record<string, string>> = {}) {
  const path = `${folder}/${name}.mts`
  writeFileSync(path, code)
  const child: ChildProcess = spawn(process.execPath, ['--import', 'tsx', path], {
    cwd: root,
    stdio: ['ignore', 'inherit', 'pipe'],
    env: {
      ...process.env,
      NODE_OPTIONS: '',
      TSX_TSCONFIG_PATH: 'tsconfig.check.json',
      REDIS_URL: lasting?.url ?? '',
      CACHE_REDIS_URL: caching?.url ?? '',
      DATABASE_URL: postgres?.url ?? '',
      CONSUL_HTTP_ADDR: consul?.address ?? '',
      ...env,
    },
  })
  let stderr = ''
  child.stderr?.on('data', (chunk: Buffer) => {
    stderr += chunk
  })
  const end = async (signal: NodeJS.Signals): Promise<number | string | null> => {
    if (child.exitCode === null && child.signalCode === null) {
      const exited = once(child, 'exit')
      child.kill(signal)
      await exited
    }
    return child.signalCode ?? child.exitCode
  }
  onTestFinished(async () => void (await end('SIGKILL')))
  return { end, said: () => stderr }
}

/** Asks until the answer is as it should be; fails with the last one after half a minute. */
async function eventually<T>(ask: () => Promise<T>, isRight: (answer: T) => boolean): Promise<T> {
  const deadline = Date.now() + 30_000
  for (;;) {
    const answer = await ask().catch((error: unknown) => error as T)
    if (isRight(answer) || Date.now() > deadline) return answer
    await delay(50)
  }
}

const inConsul = async (): Promise<number> => {
  const response = await fetch(`${consul?.address}/v1/health/service/orders?passing`)
  return ((await response.json()) as unknown[]).length
}

describe.skipIf(servers.includes(undefined))('the code of docs/guides/many-machines.md', () => {
  /** One service that is in Consul, and what can be asked of it and of its database. */
  async function serve() {
    const PORT = String(await freePort())
    const database = new pg.Client(postgres?.url)
    await database.connect()
    onTestFinished(() => database.end())
    const usedOf = async (userId: string, type: string): Promise<number> => {
      const { rows } = await database.query('SELECT value FROM spillway_usage WHERE user_id = $1 AND quota_type = $2', [
        userId,
        type,
      ])
      return Number(rows[0]?.value ?? 0)
    }
    const serving = run('service', service, { PORT })
    const get = async (path: string): Promise<[number, string]> => {
      const response = await fetch(`http://127.0.0.1:${PORT}/${path}`)
      return [response.status, await response.text()]
    }
    expect(await eventually(inConsul, (count) => count === 1), serving.said()).toBe(1)
    return { serving, get, usedOf }
  }

  test('serves, counts each request once, accounts it, and leaves in order', { timeout: 180_000 }, async () => {
    const { serving, get, usedOf } = await serve()
    const accounting = run('worker', worker)

    const answers = await Promise.all(Array.from({ length: 20 }, (_, n) => get(`ann/request-${n % 10}`)))

    expect(answers).toEqual(answers.map(() => [200, 'hello ANN']))
    expect(await usedOf('ann', 'exports')).toBe(10)
    expect(
      await eventually(
        () => usedOf('ann', 'requests'),
        (value) => value === 10,
      ),
      accounting.said(),
    ).toBe(10)

    expect(await serving.end('SIGTERM')).toBe('SIGTERM')
    expect(await inConsul()).toBe(0)
    expect(await accounting.end('SIGTERM')).toBe('SIGTERM')
    expect(serving.said() + accounting.said()).toBe('')
  })

  test('goes on without the cache, refuses without the stream, and catches up after a killed worker', {
    timeout: 180_000,
  }, async () => {
    const { serving, get, usedOf } = await serve()
    const killed = run('worker', worker)
    expect(
      await eventually(
        () => get('bob/first'),
        ([status]) => status === 200,
      ),
    ).toEqual([200, 'hello BOB'])
    expect(
      await eventually(
        () => usedOf('bob', 'requests'),
        (value) => value === 1,
      ),
    ).toBe(1)

    await caching?.kill()
    expect(await get('bob/without-the-cache')).toEqual([200, 'hello BOB'])
    await caching?.restart()

    await killed.end('SIGKILL')
    expect(await get('bob/without-a-worker')).toEqual([200, 'hello BOB'])
    await lasting?.kill()
    const [refused] = await get('bob/without-the-stream')
    expect(refused).toBe(503)
    await lasting?.restart()
    // The same request again: it may have been counted, and counts once.
    expect(
      await eventually(
        () => get('bob/without-the-stream'),
        ([status]) => status === 200,
      ),
    ).toEqual([200, 'hello BOB'])

    const successor = run('worker', worker) // under the same name
    expect(
      await eventually(
        () => usedOf('bob', 'requests'),
        (value) => value === 4,
      ),
      successor.said(),
    ).toBe(4)
    expect(await usedOf('bob', 'exports')).toBe(4)
    expect(await serving.end('SIGTERM')).toBe('SIGTERM')
    expect(await successor.end('SIGTERM')).toBe('SIGTERM')
  })
})
