import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { chownSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { type Binary, findBinary, postgresFolders } from '../binaries.ts'
import { type DemoServer, freePort, startDemoServer } from './server.ts'

const run = promisify(execFile)

/** How to get one, in a line. */
export const missingPostgres =
  'name one by DATABASE_URL, install postgresql, or run npm install with optional dependencies'

export function findPostgres(): Binary | undefined {
  return findBinary('initdb', '--version', { folders: postgresFolders() })
}

/** Starts a PostgreSQL whose data goes when the demo does. */
export async function startPostgres({ path: initdb, env }: Binary): Promise<DemoServer> {
  const home = mkdtempSync(join(tmpdir(), 'counter-billing-postgres-'))
  try {
    const account = unprivileged()
    const password = randomBytes(16).toString('hex')
    const passwordFile = join(home, 'password')
    writeFileSync(passwordFile, password, { mode: 0o600 })
    if (account !== undefined) for (const path of [home, passwordFile]) chownSync(path, account.uid, account.gid)
    const data = join(home, 'data')
    const flags = ['--username=postgres', `--pwfile=${passwordFile}`, '--auth=scram-sha-256', '--encoding=UTF8']
    await run(initdb, ['-D', data, '--no-sync', '--locale=C', ...flags], {
      ...account,
      cwd: home,
      env: { ...process.env, ...env },
    }).catch(({ message, stderr = '' }) => {
      throw new Error(`PostgreSQL can't be set up: ${stderr.trim() || message}`)
    })
    const port = await freePort()
    const url = `postgres://postgres:${password}@127.0.0.1:${port}/postgres`
    const settings = [`port=${port}`, 'listen_addresses=127.0.0.1', 'unix_socket_directories=', 'max_connections=200']
    return await startDemoServer({
      name: 'PostgreSQL',
      binary: { path: join(dirname(initdb), 'postgres'), env },
      args: ['-D', data, ...settings.flatMap((setting) => ['-c', setting])],
      url,
      isReady: () => answers(url),
      signal: 'INT',
      account,
      folder: home,
    })
  } catch (error) {
    await rm(home, { recursive: true, force: true })
    throw error
  }
}

/** Whom root runs it as: PostgreSQL refuses to be root. */
function unprivileged(): { uid: number; gid: number } | undefined {
  if (process.getuid?.() !== 0) return undefined
  const accounts = readFileSync('/etc/passwd', 'utf8').split('\n')
  const found = ['postgres:', 'nobody:'].map((name) => accounts.find((line) => line.startsWith(name))).find(Boolean)
  const [, , uid, gid] = found?.split(':') ?? []
  if (uid === undefined || gid === undefined) throw new Error('PostgreSQL refuses to be root, and nobody else is there')
  return { uid: Number(uid), gid: Number(gid) }
}

async function answers(connectionString: string): Promise<boolean> {
  const { default: pg } = await import('pg')
  const client = new pg.Client({ connectionString })
  client.on('error', () => undefined)
  try {
    await client.connect()
    return true
  } catch {
    return false
  } finally {
    await client.end().catch(() => undefined)
  }
}
