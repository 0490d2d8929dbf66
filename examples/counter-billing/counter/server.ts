import { type handleBidiStreamingCall, status } from '@grpc/grpc-js'
import type { BatchContext, CounterIncrement, CounterStore } from 'spillway'
import type { Scope } from '../auth/permissions.ts'
import { listingStatusOf } from '../http/cursor-problem.ts'
import { type Counters, text } from './counters.ts'
import { contextOf, type GrpcService, signalOfCall, statusError, unary } from './grpc-server.ts'
import { type CounterListing, type CounterPage, type ListRequest, maxPageSize } from './listing.ts'
import {
  type BatchIncrementReply,
  type BatchIncrementRequest,
  counterService,
  type GetReply,
  type GetRequest,
  type IncrementReply,
  type IncrementRequest,
  type Refusal,
  type StreamAcknowledgement,
  type StreamIncrement,
} from './protocol.ts'
import { problemOf } from './remote-store.ts'

/** What the counter service works on. */
export interface CounterServerParts {
  readonly live: CounterStore
  readonly durable: CounterStore
  /** Lists what the durable one has, where it can be listed. */
  readonly listing?: CounterListing | undefined
  /** Takes single increments, and batches them. */
  readonly counters: Counters
}

/** What a caller's token must allow, where tokens are asked for. */
export const counterScopes: Readonly<Record<string, Scope>> = {
  increment: 'counters:write',
  batchIncrement: 'counters:write',
  streamIncrements: 'counters:write',
  get: 'counters:read',
  list: 'counters:read',
}

/** Sent messages of a stream that may wait for their acknowledgement before more are read. */
const maxUnacknowledged = 64

/** Answers the calls of gateways: their batches go to the stores as they are, each under its own id. */
export function counterHandlers({ live, durable, listing, counters }: CounterServerParts): GrpcService {
  const storeOf = (name: string): CounterStore => (name === 'LIVE' ? live : durable)
  const handlers = {
    increment: unary<IncrementRequest, IncrementReply>(({ request }) => increment(counters, request)),
    batchIncrement: unary<BatchIncrementRequest, BatchIncrementReply>((call) => {
      const { batchId, store, keys, deltas, answers } = call.request
      const increments = incrementsOf(keys, deltas)
      return applyBatch(storeOf(store), increments, contextOf(batchId, signalOfCall(call)), answers)
    }),
    get: unary<GetRequest, GetReply>(async ({ request }) => {
      return { values: await storeOf(request.store).getMany(request.keys) }
    }),
    list: unary<ListRequest, CounterPage>(async ({ request }) => {
      if (listing === undefined) throw statusError(status.UNIMPLEMENTED, 'these counters have no listing')
      check(request, listing.maxPageSize ?? maxPageSize)
      return listing.list(request)
    }, listingStatusOf),
    streamIncrements: streamIncrements(live, durable),
  }
  return { definition: counterService, handlers }
}

async function increment(
  counters: Counters,
  { key, delta, acknowledgement }: IncrementRequest,
): Promise<IncrementReply> {
  // What is accepted is answered before a store sees it.
  const problem = problemOf({ key, delta })
  if (problem !== undefined) throw statusError(status.INVALID_ARGUMENT, problem.message)
  if (acknowledgement === 'REDIS') return { value: await counters.incrementLive({ key, delta }) }
  if (acknowledgement === 'COMMITTED') return { value: await counters.commit({ key, delta }) }
  if (!counters.accept({ key, delta })) throw statusError(status.RESOURCE_EXHAUSTED, 'too much waits to be written')
  return {}
}

async function applyBatch(
  store: CounterStore,
  increments: readonly CounterIncrement[],
  context: BatchContext,
  answered: boolean,
): Promise<BatchIncrementReply> {
  if (!answered) return { values: [], refusals: await addAll(store, increments, context) }
  const answers = await store.increment(increments, context)
  const refusals = answers.flatMap((answer, index) =>
    answer instanceof Error ? [{ index, message: answer.message }] : [],
  )
  return { values: answers.map((answer) => (answer instanceof Error ? 0 : answer)), refusals }
}

async function addAll(
  store: CounterStore,
  increments: readonly CounterIncrement[],
  context: BatchContext,
): Promise<Refusal[]> {
  const sums = new Map(increments.map(({ key, delta }) => [key, delta]))
  if (sums.size < increments.length) {
    throw statusError(status.INVALID_ARGUMENT, 'without answers, a batch has each key once')
  }
  const places = new Map(increments.map(({ key }, index) => [key, index]))
  const refused = await store.add(sums, context)
  return refused.map(({ key, error }) => ({ index: places.get(key) ?? 0, message: error.message }))
}

/** Applies each message to both stores under its id; as many at a time as the client may leave unacknowledged here. */
function streamIncrements(
  live: CounterStore,
  durable: CounterStore,
): handleBidiStreamingCall<StreamIncrement, StreamAcknowledgement> {
  return (call) => {
    let unacknowledged = 0
    let ended = false
    const signalOf = signalOfCall(call)
    const apply = async ({ id, keys, deltas }: StreamIncrement): Promise<StreamAcknowledgement> => {
      const increments = incrementsOf(keys, deltas)
      const context = contextOf(id, signalOf)
      const [answers] = await Promise.all([durable.increment(increments, context), live.increment(increments, context)])
      const refusals = answers.flatMap((answer, index) =>
        answer instanceof Error ? [{ index, message: answer.message }] : [],
      )
      return { id, refusals, error: '' }
    }
    call.on('data', (message: StreamIncrement) => {
      if (++unacknowledged >= maxUnacknowledged) call.pause()
      void apply(message)
        .catch((error: unknown) => ({ id: message.id, refusals: [], error: text(error) }))
        .then((acknowledgement) => {
          if (!call.destroyed) call.write(acknowledgement)
          if (--unacknowledged < maxUnacknowledged) call.resume()
          if (ended && unacknowledged === 0) call.end()
        })
    })
    call.on('end', () => {
      ended = true
      if (unacknowledged === 0) call.end()
    })
    call.on('error', () => undefined)
  }
}

/** A gateway has checked what came by HTTP; others are checked here. */
function check({ resourceId, limit }: ListRequest, max: number): void {
  if (resourceId === '' || resourceId.includes('\0')) {
    throw statusError(status.INVALID_ARGUMENT, 'a listing needs a resource, and no NUL')
  }
  if (limit >= 1 && limit <= max) return
  throw statusError(status.INVALID_ARGUMENT, `limit must be a whole number from 1 to ${max}, got ${limit}`)
}

function incrementsOf(keys: readonly string[], deltas: readonly number[]): CounterIncrement[] {
  if (keys.length !== deltas.length) {
    throw statusError(status.INVALID_ARGUMENT, `${keys.length} keys need as many deltas, got ${deltas.length}`)
  }
  return keys.map((key, index) => ({ key, delta: deltas[index] ?? 0 }))
}
