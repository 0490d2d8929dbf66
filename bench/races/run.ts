import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { startRedis } from '../../test/servers/redis.ts'
import { type Contestant, contestants, type RacingCache, type Shared } from './contestants.ts'
import { HeldLine } from './held-line.ts'

// Which caches let a value that was loaded before a write come back after it? A loader, or Redis, has read the old value and is slow
// to say so. Meanwhile the value changes, and the key is deleted, or the new value is set. When all is over, the process asks again, and
// so does another one that has nothing in memory yet. Whoever gets the old value now keeps it until its time to live is over.
//
//   npm run races
//
// Exit code: 1 when spillway lets one come back, else 0.

/** What the same process, and one that knows nothing yet, are told in the end. */
interface Outcome {
  readonly here: string | undefined
  readonly elsewhere: string | undefined
}

type Race = (contestant: Contestant, stage: Stage) => Promise<Outcome | undefined>

const key = 'item'
/** Long enough for what a library does behind its callers, on the loopback. */
const quietMs = 100

/** Where a race is run: makes the caches of processes, and closes them in the end. */
class Stage {
  readonly line: HeldLine
  readonly #opened: RacingCache[] = []
  readonly #prefix = randomUUID()
  readonly #port: number
  readonly #two: boolean

  constructor(line: HeldLine, port: number, two: boolean) {
    this.line = line
    this.#port = port
    this.#two = two
  }

  /** A process's cache; `held`: its way to Redis is the one that can be held up. */
  async process(contestant: Contestant, held = false): Promise<RacingCache | undefined> {
    const shared: Shared = { port: held ? this.line.port : this.#port, prefix: this.#prefix }
    const cache = contestant.make(this.#two ? shared : undefined)
    if (cache === undefined) return undefined
    this.#opened.push(cache)
    // It is connected, and its bus too.
    await cache.getOrLoad('warm-up', async () => 'warm')
    await delay(quietMs)
    return cache
  }

  /** What the two are told once all is quiet. Without a second tier there is nobody else. */
  async outcome(contestant: Contestant, here: RacingCache): Promise<Outcome> {
    await delay(quietMs)
    const now = async () => 'new'
    const first = await here.getOrLoad(key, now)
    const other = this.#two ? await this.process(contestant) : undefined
    return { here: first, elsewhere: await other?.getOrLoad(key, now) }
  }

  async close(): Promise<void> {
    for (const cache of this.#opened) await cache.close()
  }
}

/** A load that has read the old value and waits; resolves `begun` when it has. */
function slowLoad(): { load: () => Promise<string>; begun: Promise<void>; finish: () => void } {
  let begin = (): void => undefined
  let finish = (): void => undefined
  const begun = new Promise<void>((resolve) => (begin = resolve))
  const gate = new Promise<void>((resolve) => (finish = resolve))
  const load = async (): Promise<string> => {
    begin()
    await gate
    return 'old'
  }
  return { load, begun, finish }
}

/** A write while a load is running, by the process that loads or by another one. */
const duringLoad =
  (write: (cache: RacingCache) => Promise<unknown> | undefined, by: 'itself' | 'another' = 'itself'): Race =>
  async (contestant, stage) => {
    const cache = await stage.process(contestant)
    if (cache === undefined) return undefined
    const writer = by === 'itself' ? cache : await stage.process(contestant)
    const { load, begun, finish } = slowLoad()
    const reading = cache.getOrLoad(key, load).catch(() => undefined)
    await begun
    const written = writer && write(writer)
    await written
    await delay(quietMs)
    finish()
    await reading
    return written && stage.outcome(contestant, cache)
  }

/** A write while Redis has read the old value and its answer is on the way. */
const duringRead =
  (write: (cache: RacingCache) => Promise<unknown> | undefined): Race =>
  async (contestant, stage) => {
    const filler = await stage.process(contestant)
    const cache = await stage.process(contestant, true)
    if (filler === undefined || cache === undefined) return undefined
    await filler.getOrLoad(key, async () => 'old')
    await delay(quietMs)
    stage.line.hold()
    const reading = cache.getOrLoad(key, async () => 'old').catch(() => undefined)
    await stage.line.answered()
    const written = write(cache)
    await delay(quietMs)
    stage.line.release()
    await Promise.all([reading, written])
    return written && stage.outcome(contestant, cache)
  }

const remove = (cache: RacingCache): Promise<unknown> => cache.delete(key)
const replace = (cache: RacingCache): Promise<unknown> | undefined => cache.set?.(key, 'new')

const races: readonly { readonly name: string; readonly two: boolean; readonly race: Race }[] = [
  { name: '`delete` during a load, in memory', two: false, race: duringLoad(remove) },
  { name: '`set` during a load, in memory', two: false, race: duringLoad(replace) },
  { name: '`delete` during a load, with Redis', two: true, race: duringLoad(remove) },
  { name: '`set` during a load, with Redis', two: true, race: duringLoad(replace) },
  { name: '`delete` in another process during a load', two: true, race: duringLoad(remove, 'another') },
  { name: '`set` in another process during a load', two: true, race: duringLoad(replace, 'another') },
  { name: '`delete` during a read of Redis', two: true, race: duringRead(remove) },
  { name: '`set` during a read of Redis', two: true, race: duringRead(replace) },
]

/** Where the old value is. */
function verdict(outcome: Outcome | undefined): string {
  if (outcome === undefined) return 'n/a'
  const { here, elsewhere } = outcome
  if (here === 'old' && elsewhere === 'old') return 'comes back, for all'
  if (here === 'old') return 'comes back here'
  return elsewhere === 'old' ? 'comes back elsewhere' : 'stays away'
}

const version = (name: string): string =>
  JSON.parse(readFileSync(name === 'spillway' ? 'package.json' : `node_modules/${name}/package.json`, 'utf8')).version

const server = await startRedis()
if (server === undefined) process.exit(1)
const line = await HeldLine.to(server.port)
const rows: string[][] = []
try {
  for (const { name, two, race } of races) {
    const row = [name]
    for (const contestant of contestants) {
      const stage = new Stage(line, server.port, two)
      row.push(verdict(await race(contestant, stage)))
      await stage.close()
    }
    rows.push(row)
  }
} finally {
  await line.stop()
  await server.stop()
}
const header = ['the old value', ...contestants.map(({ name, package: of }) => `${name} ${version(of)}`)]
for (const row of [header, header.map(() => '---'), ...rows]) console.log(`| ${row.join(' | ')} |`)
process.exit(rows.some(([, ours]) => ours !== 'stays away') ? 1 : 0)
