import { Worker } from 'node:worker_threads'
import { Pool } from 'undici'
import type { Latencies } from './latencies.ts'
import type { Arrivals } from './scenarios.ts'

/** What one run saw. */
export interface LoopResult extends Latencies {
  /** How late each request was sent: a part of what it took. It is the load's own doing, not the service's. */
  readonly lateMs: Float64Array
  /** How many requests of each user were answered with a status below 400. */
  readonly answered: Uint32Array
  /** How many of each user failed. */
  readonly failed: Uint32Array
}

export interface LoopOptions {
  readonly url: string
  readonly arrivals: Arrivals
  /** The body of a user's request. */
  readonly bodyOf: (user: number) => string
  readonly users: number
}

/** How many connections there are at most: more than ever should be needed, so that a request hardly waits for one. */
const connections = 512
const timeoutMs = 10_000

/**
 * A thread that says when the next request is due. It sleeps to a fraction of a millisecond, as a timer of the event loop can't, and is
 * not held up by the answers that come in.
 */
const pacer = `
const { parentPort, workerData: { atMs, startMs } } = require('node:worker_threads')
const never = new Int32Array(new SharedArrayBuffer(4))
for (let request = 0; request < atMs.length; request++) {
  const wait = startMs + atMs[request] - Number(process.hrtime.bigint()) / 1e6
  if (wait > 0) Atomics.wait(never, 0, 0, wait)
  parentPort.postMessage(request)
}
`

/**
 * Sends each request when it is due, whether or not earlier ones were answered, and measures from when it was due. A service that falls
 * behind is not spared any load, and the wait that it causes is not left out.
 */
export async function runOpenLoop({ url, arrivals, bodyOf, users }: LoopOptions): Promise<LoopResult> {
  const { atMs } = arrivals
  const result: LoopResult = {
    atMs,
    tookMs: new Float64Array(atMs.length),
    lateMs: new Float64Array(atMs.length),
    answered: new Uint32Array(users),
    failed: new Uint32Array(users),
  }
  const pool = new Pool(url, { connections, pipelining: 1, headersTimeout: timeoutMs, bodyTimeout: timeoutMs })
  // Time for the thread to start.
  const startMs = nowMs() + 200
  const thread = new Worker(pacer, { eval: true, execArgv: [], workerData: { atMs, startMs } })
  let left = atMs.length
  const over = new Promise<void>((resolve, reject) => {
    const settle = (request: number, counts: Uint32Array): void => {
      result.tookMs[request] = nowMs() - startMs - (atMs[request] as number)
      const user = arrivals.users[request] as number
      counts[user] = (counts[user] as number) + 1
      if (--left === 0) resolve()
    }
    thread.on('message', (request: number) => {
      result.lateMs[request] = nowMs() - startMs - (atMs[request] as number)
      const body = bodyOf(arrivals.users[request] as number)
      send(pool, body, (ok) => settle(request, ok ? result.answered : result.failed))
    })
    thread.once('error', reject)
    if (left === 0) resolve()
  })
  try {
    await over
  } finally {
    await thread.terminate()
    await pool.destroy()
  }
  return result
}

/** Asks something of the service outside the load. */
export async function askService<T>(url: string, path: string): Promise<T> {
  const response = await fetch(`${url}${path}`, { method: 'POST', signal: AbortSignal.timeout(60_000) })
  if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`)
  return (await response.json()) as T
}

function send(pool: Pool, body: string, onDone: (ok: boolean) => void): void {
  let status = 0
  pool.dispatch(
    { method: 'POST', path: '/use', headers: { 'content-type': 'application/json' }, body },
    {
      onRequestStart() {},
      onResponseStart(_controller, statusCode) {
        status = statusCode
      },
      onResponseData() {},
      onResponseEnd: () => onDone(status < 400),
      onResponseError: () => onDone(false),
    },
  )
}

/** One clock for all threads of the process, in milliseconds. */
function nowMs(): number {
  return Number(process.hrtime.bigint()) / 1e6
}
