import { AsyncBatcher, type CounterIncrement, type CounterStore, isSpillwayError } from 'spillway'
import type { Acknowledgement, Log, Losses } from '../counter/counters.ts'
import { text } from '../counter/counters.ts'
import type { KeyedWrite } from './idempotency.ts'

/** Increments that are one batch of their own, under the id that their request's key gives them. */
interface KeyedBatch {
  readonly id: string
  readonly increments: readonly CounterIncrement[]
}

type Answers = readonly (number | Error)[]

/**
 * For how long after its key was noted a write may change live values, in milliseconds. Redis remembers the ids of batches for ten
 * minutes: what comes later is told apart by the durable store alone.
 */
const liveForMs = 300_000

/**
 * Writes under an `Idempotency-Key`: each is a batch of its own, whose id comes from the key, and which both stores apply once, however
 * often it is sent and by whichever gateway. The durable store comes first and decides; the live one follows with what that has taken.
 */
export class KeyedWrites {
  readonly durable: AsyncBatcher<KeyedBatch, Answers>
  readonly live: AsyncBatcher<KeyedBatch, Answers>
  readonly #losses: Losses
  readonly #log: Log

  constructor(stores: { live: CounterStore; durable: CounterStore }, losses: Losses, log: Log) {
    this.#losses = losses
    this.#log = log
    this.durable = sender('keyed-durable', stores.durable, { timeoutMs: 10_000, attempts: 6, delayMs: 50 })
    this.live = sender('keyed-live', stores.live, { timeoutMs: 2_000, attempts: 4, delayMs: 20 })
  }

  /** What is open, in the order in which to close it. */
  get parts(): readonly AsyncBatcher<KeyedBatch, Answers>[] {
    return [this.durable, this.live]
  }

  /**
   * Applies increments once.
   *
   * @returns for each of them the value that was asked for, or why the store refuses it. Rejects where that is unknown, or nothing was done.
   */
  async apply(
    { batchId: id, ageMs }: KeyedWrite,
    increments: readonly CounterIncrement[],
    acknowledgement: Acknowledgement,
  ): Promise<Answers> {
    const committed = await this.durable.add({ id, increments })
    const taken = increments.filter((_, index) => typeof committed[index] === 'number')
    if (taken.length === 0) return committed
    if (ageMs > liveForMs) {
      this.#missLive(taken, new Error('the request came again too late to tell whether they have it'))
      return committed
    }
    const applied = this.live.add({ id, increments: taken }).then((answers) => this.#noteRefused(taken, answers))
    if (acknowledgement !== 'redis') {
      applied.catch((error: unknown) => this.#missLive(taken, error))
      return committed
    }
    const values = [...(await applied.catch(unknownToo))]
    // What the live store refuses is committed all the same: the durable value is all there is to tell then.
    return committed.map((answer) => {
      const value = typeof answer === 'number' ? values.shift() : undefined
      return typeof value === 'number' ? value : answer
    })
  }

  #noteRefused(increments: readonly CounterIncrement[], answers: Answers): Answers {
    for (const [index, increment] of increments.entries()) {
      const answer = answers[index]
      if (answer instanceof Error) this.#missLive([increment], answer)
    }
    return answers
  }

  #missLive(increments: readonly CounterIncrement[], error: unknown): void {
    this.#losses.notLive += increments.length
    this.#log('warn', `the live values of ${increments.length} counters may be behind (${text(error)})`)
  }
}

/** It is committed by now, whatever the live store says: only the same request again may go on. */
function unknownToo(error: unknown): never {
  throw new CommittedAlone(error)
}

/** The durable store has a write, and the live one doesn't, as far as one knows. */
export class CommittedAlone extends Error {
  constructor(cause: unknown) {
    super(`it is committed, but not live yet: ${text(cause)}`, { cause })
  }
}

function sender(
  name: string,
  store: CounterStore,
  { timeoutMs, attempts, delayMs }: { timeoutMs: number; attempts: number; delayMs: number },
): AsyncBatcher<KeyedBatch, Answers> {
  return new AsyncBatcher(
    async ([batch], { attempt, signal }) => {
      const { id, increments } = batch as KeyedBatch
      return [await store.increment(increments, { batchId: id, attempt, signal })]
    },
    {
      ...{ name, maxBatchSize: 1, concurrency: 8, timeoutMs, idempotent: store.idempotent },
      retry: { attempts, delayMs, maxDelayMs: 1_000 },
    },
  )
}

/** Whether nothing was done, as far as an error says. */
export function isWithoutEffect(error: unknown): boolean {
  return !(error instanceof CommittedAlone) && isSpillwayError(error) && !error.outcomeUnknown
}
