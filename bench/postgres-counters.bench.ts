import { randomUUID } from 'node:crypto'
import { AsyncBatcher, type BatchContext, type CounterIncrement } from 'spillway'
import { PostgresCounterStore } from 'spillway/postgres'
import type { Aim, Contender, Contest } from './harness/contest.ts'
import { connect, finish, inTurns } from './harness/postgres-contest.ts'
import { serveSuite } from './harness/suite-process.ts'

// Increments of counters in a real PostgreSQL, from the first call of a turn until the last one is committed.

const increments = 1000

const context = (): BatchContext => ({ batchId: randomUUID(), attempt: 1, signal: new AbortController().signal })

/** The keys of each turn: they rotate, so that a turn of 1000 touches as many counters as there are, or 1000. */
class Keys {
  readonly #count: number
  #next = 0

  constructor(count: number) {
    this.#count = count
  }

  batch(size: number): CounterIncrement[] {
    return Array.from({ length: size }, () => ({ key: `key ${this.#next++ % this.#count}`, delta: 1 }))
  }
}

/** A contender on a table of its own, whose sum is compared with the number of increments after each turn. */
function contender(
  name: string,
  aim: Aim | undefined,
  prepare: (table: string) => Promise<() => Promise<void>>,
): Contender {
  return {
    name,
    ...(aim === undefined ? {} : { aim }),
    prepare: async () => {
      const database = await connect()
      const table = `counters_${randomUUID().replaceAll('-', '')}`
      const turn = await prepare(table)
      let expected = 0
      return {
        async: true,
        turn,
        check: async () => {
          expected += increments
          const { rows } = await database.query(`SELECT sum(value) AS sum FROM ${table}`)
          if (Number(rows[0]?.sum) !== expected) throw new Error(`expected ${expected}, got ${rows[0]?.sum}`)
        },
      }
    },
  }
}

async function storeOn(table: string): Promise<PostgresCounterStore> {
  const store = new PostgresCounterStore(await connect(), { table, batchTable: `${table}_b` })
  await store.createSchema()
  return store
}

/** One writer, one statement a batch, exactly once, each increment its own answer. */
const answered = (keys: number, size: number): Contender =>
  contender(`spillway, batches of ${size}, each increment its answer`, undefined, async (table) => {
    const store = await storeOn(table)
    const source = new Keys(keys)
    return async () => {
      for (let done = 0; done < increments; done += size) {
        const answers = await store.increment(source.batch(size), context())
        if (answers.some((answer) => typeof answer !== 'number')) throw new Error('an increment was refused')
      }
    }
  })

/** The same for sums that nobody waits for. */
const summed = (keys: number): Contender =>
  contender(`spillway, sums of ${increments} increments`, undefined, async (table) => {
    const store = await storeOn(table)
    const source = new Keys(keys)
    return async () => {
      const sums = new Map<string, number>()
      for (const { key, delta } of source.batch(increments)) sums.set(key, (sums.get(key) ?? 0) + delta)
      await store.add(sums, context())
    }
  })

/** Callers that each wait for their own commit before they make the next increment. */
const groupCommit = (keys: number, callers: number): Contender =>
  contender(`spillway, AsyncBatcher, ${callers} callers wait`, undefined, async (table) => {
    const store = await storeOn(table)
    const source = new Keys(keys)
    const batcher = new AsyncBatcher<CounterIncrement, number>((batch, context) => store.increment(batch, context), {
      concurrency: 1,
      idempotent: true,
    })
    return waiting(callers, source, (increment) => batcher.add(increment))
  })

const upsert = (table: string): string => `INSERT INTO ${table} AS counter (key, value) VALUES ($1, $2)
  ON CONFLICT (key) DO UPDATE SET value = counter.value + excluded.value`

/** One upsert an event, over ten connections; it counts an event twice when an answer is lost and the event comes again. */
const oneByOne = (keys: number, callers: number, prepared: boolean, aim?: Aim): Contender =>
  contender(`one ${prepared ? 'prepared ' : ''}upsert an event, ${callers} callers`, aim, async (table) => {
    const database = await connect()
    await database.query(`CREATE TABLE ${table} (key text PRIMARY KEY, value bigint NOT NULL)`)
    const source = new Keys(keys)
    const statement = { text: upsert(table), ...(prepared ? { name: table.slice(0, 50) } : {}) }
    return waiting(callers, source, ({ key, delta }) => database.query({ ...statement, values: [key, delta] }))
  })

function waiting(
  callers: number,
  source: Keys,
  increment: (increment: CounterIncrement) => Promise<unknown>,
): () => Promise<void> {
  return () => inTurns(callers, source.batch(increments), increment)
}

const contest = (name: string, contenders: Contest['contenders']): Contest => ({
  name,
  operation: 'increment',
  operations: increments,
  contenders,
  finish,
})
const aim: Aim = { timesFaster: 8 }

await serveSuite([
  contest('1,000 keys, batches of 100, exactly once', [
    answered(1000, 100),
    oneByOne(1000, 100, true, aim),
    oneByOne(1000, 100, false),
  ]),
  contest('1,000 keys, sums of 1,000, exactly once', [summed(1000), oneByOne(1000, 100, true, aim)]),
  contest('1,000 keys, 50 callers, each waits for its own commit', [groupCommit(1000, 50), oneByOne(1000, 50, true)]),
  contest('one hot key, batches of 100, exactly once', [answered(1, 100), oneByOne(1, 100, true)]),
  contest('100,000 keys, batches of 100, exactly once', [answered(100_000, 100), oneByOne(100_000, 100, true)]),
])
