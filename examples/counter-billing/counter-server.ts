import {
  type handleBidiStreamingCall,
  type handleUnaryCall,
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type ServiceError,
  status,
} from '@grpc/grpc-js'
import { type BatchContext, type CounterIncrement, type CounterStore, isSpillwayError } from 'spillway'
import { type Counters, isRefusal, Overload, text } from './counters.ts'
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

/** What the counter service works on. */
export interface CounterServerParts {
  readonly live: CounterStore
  readonly durable: CounterStore
  /** Takes single increments, and batches them. */
  readonly counters: Counters
}

export interface CounterServer {
  /** `host:port`. */
  readonly address: string
  /** Refuses new calls, waits for those that run, and ends those that are left after `timeoutMs`. */
  close(options?: { timeoutMs?: number }): Promise<void>
}

/** Sent messages of a stream that may wait for their acknowledgement before more are read. */
const maxUnacknowledged = 64

/** Listens for the calls of gateways: their batches go to the stores as they are, each under its own id. */
export async function startCounterServer(parts: CounterServerParts, address: string): Promise<CounterServer> {
  const server = new Server({ 'grpc.max_receive_message_length': 4 * 1024 * 1024 })
  const { live, durable, counters } = parts
  const storeOf = (name: string): CounterStore => (name === 'LIVE' ? live : durable)
  server.addService(counterService, {
    increment: unary<IncrementRequest, IncrementReply>(({ request }) => increment(counters, request)),
    batchIncrement: unary<BatchIncrementRequest, BatchIncrementReply>((call) => {
      const { batchId, store, keys, deltas, answers } = call.request
      const increments = incrementsOf(keys, deltas)
      return applyBatch(storeOf(store), increments, contextOf(batchId, signalOfCall(call)), answers)
    }),
    get: unary<GetRequest, GetReply>(async ({ request }) => {
      return { values: await storeOf(request.store).getMany(request.keys) }
    }),
    streamIncrements: streamIncrements(live, durable),
  })
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync(address, ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    )
  })
  return {
    address: `${address.slice(0, address.lastIndexOf(':'))}:${port}`,
    close: ({ timeoutMs } = {}) => closeServer(server, timeoutMs),
  }
}

function closeServer(server: Server, timeoutMs: number | undefined): Promise<void> {
  return new Promise((resolve) => {
    const timer = timeoutMs === undefined ? undefined : setTimeout(() => server.forceShutdown(), timeoutMs)
    server.tryShutdown(() => {
      clearTimeout(timer)
      resolve()
    })
  })
}

async function increment(
  counters: Counters,
  { key, delta, acknowledgement }: IncrementRequest,
): Promise<IncrementReply> {
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

/** Answers a unary call with what a promise brings. */
function unary<Request, Reply>(
  handle: (call: ServerUnaryCall<Request, Reply>) => Promise<Reply>,
): handleUnaryCall<Request, Reply> {
  return (call, callback) => {
    // Within the chain: what handle throws at once must be answered, too.
    Promise.resolve(call)
      .then(handle)
      .then(
        (reply) => callback(null, reply),
        (error: unknown) => callback(statusOf(error)),
      )
  }
}

function incrementsOf(keys: readonly string[], deltas: readonly number[]): CounterIncrement[] {
  if (keys.length !== deltas.length) {
    throw statusError(status.INVALID_ARGUMENT, `${keys.length} keys need as many deltas, got ${deltas.length}`)
  }
  return keys.map((key, index) => ({ key, delta: deltas[index] ?? 0 }))
}

/** A batch that a gateway retries is another attempt at the same one; which one it is, the gateway knows. */
function contextOf(batchId: string, signalOf: () => AbortSignal): BatchContext {
  if (batchId === '') throw statusError(status.INVALID_ARGUMENT, 'a batch needs an id')
  return {
    batchId,
    attempt: 1,
    get signal() {
      return signalOf()
    },
  }
}

/** A signal that aborts when a call is cancelled; made when first asked for, and one for all of a stream's messages. */
function signalOfCall(call: {
  cancelled: boolean
  once(event: 'cancelled', listener: () => void): unknown
}): () => AbortSignal {
  let controller: AbortController | undefined
  return () => {
    if (controller === undefined) {
      controller = new AbortController()
      const abort = (): void => controller?.abort(new Error('the caller has gone'))
      if (call.cancelled) abort()
      else call.once('cancelled', abort)
    }
    return controller.signal
  }
}

/** What the other side is to make of an error: whether the work may have been done is what matters most. */
function statusOf(error: unknown): Partial<ServiceError> {
  if (typeof (error as ServiceError)?.code === 'number') return error as ServiceError
  if (error instanceof Overload || isSpillwayError(error, 'ERR_FULL')) {
    return statusError(status.RESOURCE_EXHAUSTED, text(error))
  }
  if (isRefusal(error)) return statusError(status.FAILED_PRECONDITION, text(error))
  if (isSpillwayError(error, 'ERR_STORE') && !error.outcomeUnknown) return statusError(status.ABORTED, text(error))
  return statusError(status.UNAVAILABLE, text(error))
}

function statusError(code: status, details: string): Error & Partial<ServiceError> {
  return Object.assign(new Error(details), { code, details })
}
