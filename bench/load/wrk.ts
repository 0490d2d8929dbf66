import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { debianBinary } from '../../test/servers/debian.ts'

/** What one run of wrk saw. */
export interface LoadResult {
  /** Answers with a status below 400. */
  readonly answered: number
  readonly perSecond: number
  /** Answers of 400 and above, time-outs and broken connections. */
  readonly errors: number
  readonly p50Ms: number
  readonly p95Ms: number
  readonly p99Ms: number
  readonly maxMs: number
}

export interface LoadOptions {
  readonly url: string
  readonly connections: number
  readonly seconds: number
  /** What the resource ids begin with. */
  readonly prefix: string
  readonly keys: number
  readonly acknowledgement?: string | undefined
  /** For a GET in place of an increment: the path, in which `KEY` stands for one of the keys. */
  readonly get?: string | undefined
  /** How many requests a second to send; as many as are answered, without it. */
  readonly perSecond?: number | undefined
}

const script = fileURLToPath(new URL('./requests.lua', import.meta.url))
const run = promisify(execFile)

/** Finds or fetches wrk. */
export async function findWrk(): Promise<(options: LoadOptions) => Promise<LoadResult>> {
  const wrk = await debianBinary({ binary: 'wrk', packages: ['wrk', 'libluajit-5.1-2', 'libluajit-5.1-common'] })
  if (wrk === undefined) throw new Error('the load needs wrk: install it (on Debian: apt-get install wrk)')
  return async (options) => {
    const { url, connections, seconds, prefix, keys, acknowledgement = '-', get = '-', perSecond } = options
    // A connection waits this long between an answer and its next request.
    const delayMs = perSecond === undefined ? 0 : Math.round((connections * 1000) / perSecond)
    const flags = [
      '--threads',
      '1',
      '--connections',
      String(connections),
      '--duration',
      `${seconds}s`,
      '--timeout',
      '10s',
    ]
    const args = [...flags, '--script', script, url, '--', prefix, String(keys), acknowledgement, String(delayMs), get]
    const { stdout } = await run(wrk.path, args, {
      env: { ...process.env, ...wrk.env },
      timeout: (seconds + 30) * 1000,
    })
    return parse(stdout)
  }
}

function parse(stdout: string): LoadResult {
  const [, json] = /^REPORT (.*)$/m.exec(stdout) ?? []
  if (json === undefined) throw new Error(`wrk printed no report:\n${stdout}`)
  const report = JSON.parse(json) as Record<string, number>
  const value = (name: string): number => report[name] ?? 0
  const answered = value('requests') - value('status')
  return {
    answered,
    perSecond: (answered * 1e6) / value('durationUs'),
    errors: value('status') + value('connect') + value('read') + value('write') + value('timeout'),
    p50Ms: value('p50Us') / 1000,
    p95Ms: value('p95Us') / 1000,
    p99Ms: value('p99Us') / 1000,
    maxMs: value('maxUs') / 1000,
  }
}
