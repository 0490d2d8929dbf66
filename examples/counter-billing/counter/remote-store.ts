import {
  type BatchContext,
  type CounterIncrement,
  type CounterStore,
  type RefusedIncrement,
  StoreError,
} from 'spillway'
import type { GrpcBalancedPool } from 'spillway/grpc'
import { rethrowCursorProblem } from '../http/cursor-problem.ts'
import type { CounterListing, CounterPage, ListRequest } from './listing.ts'
import type { BatchIncrementReply, CounterClient, StoreName } from './protocol.ts'
import { patientMetadata, rethrowPatiently, type ServiceInstance } from './service-pool.ts'

/** How many counter services are asked, one after the other, before an attempt has failed. */
const attempts = 3
/** How long a page may take to be read. */
const readTimeoutMs = 2_000

export type CounterPool = GrpcBalancedPool<ServiceInstance, CounterClient>

/** A store of the counter services, by gRPC: each batch is one call, under its id, of whichever of them is there. */
export class RemoteCounterStore implements CounterStore {
  readonly idempotent = true
  readonly #pool: CounterPool
  readonly #store: StoreName
  readonly #services: { instances(): readonly unknown[] }

  /** @param services - tells how many there are. */
  constructor(pool: CounterPool, store: StoreName, services: { instances(): readonly unknown[] }) {
    this.#pool = pool
    this.#store = store
    this.#services = services
  }

  async increment(increments: readonly CounterIncrement[], context: BatchContext): Promise<(number | Error)[]> {
    const answers: (number | Error)[] = increments.map((increment) => problemOf(increment) ?? 0)
    const places = increments.map((_, index) => index).filter((index) => answers[index] === 0)
    const sent = places.map((place) => increments[place] as CounterIncrement)
    const { values, refusals } = await this.#apply(sent, context, true)
    for (const [index, place] of places.entries()) answers[place] = values[index] ?? 0
    for (const { index, message } of refusals) answers[places[index] as number] = refused(message)
    return answers
  }

  async add(sums: ReadonlyMap<string, number>, context: BatchContext): Promise<RefusedIncrement[]> {
    const increments = Array.from(sums, ([key, delta]) => ({ key, delta }))
    const sent = increments.filter((increment) => problemOf(increment) === undefined)
    const { refusals } = await this.#apply(sent, context, false)
    const here = increments.flatMap((increment) => {
      const error = problemOf(increment)
      return error === undefined ? [] : [{ ...increment, error }]
    })
    const there = refusals.map(({ index, message }) => {
      return { ...(sent[index] as CounterIncrement), error: refused(message) }
    })
    return [...here, ...there]
  }

  async getMany(keys: readonly string[]): Promise<readonly number[]> {
    return (await this.#pool.call('get', { store: this.#store, keys }, { attempts, idempotent: true })).values
  }

  #apply(
    increments: readonly CounterIncrement[],
    { batchId, signal }: BatchContext,
    answers: boolean,
  ): Promise<BatchIncrementReply> {
    const keys = increments.map(({ key }) => key)
    const deltas = increments.map(({ delta }) => delta)
    const metadata = answers ? undefined : patientMetadata(this.#services)
    const options = { signal, attempts, idempotent: true, metadata }
    const batch = { batchId, store: this.#store, keys, deltas, answers }
    return this.#pool.call('batchIncrement', batch, options).catch(rethrowPatiently)
  }
}

/** Lists what the counter services have. */
export class RemoteCounterListing implements CounterListing {
  readonly #pool: CounterPool

  constructor(pool: CounterPool) {
    this.#pool = pool
  }

  list(request: ListRequest): Promise<CounterPage> {
    const options = { attempts, idempotent: true, timeoutMs: readTimeoutMs }
    return this.#pool.call('list', request, options).catch(rethrowCursorProblem)
  }
}

/** What a message can't carry, as it would arrive as something else, and no store takes. */
export function problemOf({ key, delta }: CounterIncrement): StoreError | undefined {
  if (!Number.isSafeInteger(delta)) return refused(`a delta must be a whole number that is exact, got ${delta}`)
  if (key.includes('\0') || /[\uD800-\uDFFF]/u.test(key)) return refused(`${JSON.stringify(key)} is no text to store`)
  return undefined
}

function refused(message: string): StoreError {
  return new StoreError(message, { retryable: false })
}
