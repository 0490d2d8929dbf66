/**
 * A process that holds accepted writes; run by close-on-exit.test.ts, which ends it one way or another.
 *
 *     service.ts <case> <file>
 *
 * It says `ready` once it is, and writes what reaches its store into the file.
 */
import { appendFileSync } from 'node:fs'
import { AsyncWriteBuffer } from 'spillway'
import { type Closable, closeOnExit } from 'spillway/process'

const [what, file] = process.argv.slice(2) as [string, string]
const say = (line: string): void => appendFileSync(file, `${line}\n`)

/** A buffer that would write in a minute, into a store that takes a while. */
function counter(name: string, writeMs = 100): AsyncWriteBuffer<string, number> {
  const buffer = new AsyncWriteBuffer<string, number>(
    async (entries) => {
      await new Promise((resolve) => setTimeout(resolve, writeMs))
      for (const [key, value] of entries) say(`${name} ${key} ${value}`)
    },
    { merge: (old, value) => old + value, maxWaitMs: 60_000, name },
  )
  for (let i = 0; i < 1000; i++) buffer.put('hits', 1)
  return buffer
}

const stayAlive = (): void => void setInterval(() => undefined, 60_000)
const ready = (): void => void process.stdout.write('ready\n')
const hangs: Closable = { name: 'stuck', close: () => new Promise(() => {}) }
const synchronous: Closable = { close: () => say('close'), flushSync: () => say('flushSync') }

const cases: Record<string, () => void> = {
  drain() {
    closeOnExit([counter('likes')])
    stayAlive()
  },
  'slow-drain'() {
    closeOnExit([counter('likes', 5_000)])
    stayAlive()
  },
  order() {
    const stage = (name: string): Closable => ({
      close: async () => {
        say(`${name} closing`)
        await new Promise((resolve) => setTimeout(resolve, 30))
        say(`${name} closed`)
      },
    })
    closeOnExit([stage('gateway'), stage('buffer'), stage('pool')])
    stayAlive()
  },
  'failing-close'() {
    closeOnExit([
      {
        name: 'first',
        close: () => {
          throw new Error('valve stuck')
        },
      },
      { name: 'second', close: () => Promise.reject(new Error('pipe burst')) },
      counter('likes'),
    ])
    stayAlive()
  },
  'hanging-close'() {
    closeOnExit([counter('likes'), hangs], { timeoutMs: 300 })
    stayAlive()
  },
  'longest-timeout'() {
    closeOnExit([counter('likes', 500)], { timeoutMs: 2_147_483_647 })
    stayAlive()
  },
  'own-listener'() {
    closeOnExit([counter('likes')])
    process.on('SIGTERM', () => {
      say('application: SIGTERM')
      setTimeout(() => {
        say('application: done')
        process.exit(3)
      }, 500)
    })
    stayAlive()
  },
  'two-watches'() {
    closeOnExit([counter('likes')])
    closeOnExit([counter('views', 400)])
    stayAlive()
  },
  disposed() {
    const counts = (): number[] =>
      ['SIGTERM', 'SIGINT', 'uncaughtException', 'exit'].map((name) => process.listenerCount(name))
    const before = counts()
    const dispose = closeOnExit([counter('likes')])
    const during = counts()
    dispose()
    dispose()
    say(`on: ${during.map((count, i) => count - (before[i] as number))}`)
    say(`off: ${counts().map((count, i) => count - (before[i] as number))}`)
    stayAlive()
  },
  'other-signal'() {
    closeOnExit([counter('likes')], { signals: ['SIGUSR2'] })
    stayAlive()
  },
  uncaught() {
    closeOnExit([counter('likes'), synchronous])
    setTimeout(() => {
      throw new Error('the dam broke')
    }, 50)
    stayAlive()
  },
  'uncaught-with-exit-code-0'() {
    closeOnExit([counter('likes')])
    process.exitCode = 0
    setTimeout(() => {
      throw new Error('the dam broke')
    }, 50)
    stayAlive()
  },
  'uncaught-twice'() {
    closeOnExit([counter('likes')])
    for (const error of ['first', 'second']) {
      setTimeout(() => {
        throw new Error(`${error} break`)
      }, 50)
    }
    stayAlive()
  },
  'uncaught-two-watches'() {
    closeOnExit([counter('likes')])
    closeOnExit([counter('views', 400)])
    setTimeout(() => {
      throw new Error('the dam broke')
    }, 50)
    stayAlive()
  },
  'uncaught-own-listener'() {
    closeOnExit([counter('likes')])
    process.on('uncaughtException', (error) => say(`application: ${error.message}`))
    setTimeout(() => {
      throw new Error('the dam broke')
    }, 50)
    setTimeout(() => process.exit(4), 500)
  },
  'unhandled-rejection'() {
    closeOnExit([counter('likes')])
    setTimeout(() => void Promise.reject(new Error('nobody caught this')), 50)
    stayAlive()
  },
  'process-exit'() {
    closeOnExit([synchronous])
    setTimeout(() => process.exit(7), 50)
  },
  'exit-with-failing-flush'() {
    closeOnExit([
      {
        name: 'leaky',
        close: () => undefined,
        flushSync: () => {
          throw new Error('leak')
        },
      },
      synchronous,
    ])
    setTimeout(() => process.exit(7), 50)
  },
  'natural-end'() {
    closeOnExit([synchronous])
    process.exitCode = 5
  },
  'natural-end-of-a-buffer'() {
    const buffer = counter('likes')
    closeOnExit([buffer])
    void buffer.flush()
  },
}

const run = cases[what]
if (run === undefined) throw new Error(`no such case: ${what}`)
run()
ready()
