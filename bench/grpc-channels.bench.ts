import { once } from 'node:events'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import {
  Metadata,
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type ServerUnaryCall,
  type sendUnaryData,
} from '@grpc/grpc-js'
import { AsyncBatcher, type CounterIncrement } from 'spillway'
import { AckedStream, type ChannelGrowth, GrpcChannelPool } from 'spillway/grpc'
import {
  type BatchIncrementReply,
  type BatchIncrementRequest,
  type CounterClient,
  counterClient,
  counterService,
  type GetReply,
  type IncrementReply,
  type IncrementRequest,
  type StreamAcknowledgement,
  type StreamIncrement,
} from '../examples/counter-billing/protocol.ts'
import type { Contender, Contest, Turns } from './harness/contest.ts'
import { serveSuite } from './harness/suite-process.ts'

// What connections are for. The server runs on another thread, grants 100 calls at a time to a connection, as many servers
// do, and takes a while to answer a unary call where a contest says so, as one that asks a database does.

/** How the server of a contender behaves. */
interface Manner {
  /** How long it takes for a unary call, in milliseconds. */
  readonly answerMs: number
}

const streamsPerConnection = 100

/** The server: a sum. */
function serve({ answerMs }: Manner): void {
  let sum = 0
  const add = (deltas: readonly number[]): number[] => deltas.map((delta) => (sum += delta))
  const server = new Server({ 'grpc.max_concurrent_streams': streamsPerConnection })
  server.addService(counterService, {
    increment: (call: ServerUnaryCall<IncrementRequest, IncrementReply>, answer: sendUnaryData<IncrementReply>) => {
      const [value = 0] = add([call.request.delta])
      if (answerMs === 0) answer(null, { value })
      else setTimeout(() => answer(null, { value }), answerMs)
    },
    batchIncrement: (
      call: ServerUnaryCall<BatchIncrementRequest, BatchIncrementReply>,
      answer: sendUnaryData<BatchIncrementReply>,
    ) => answer(null, { values: add(call.request.deltas), refusals: [] }),
    get: (_call: unknown, answer: sendUnaryData<GetReply>) => answer(null, { values: [sum] }),
    streamIncrements: (call: ServerDuplexStream<StreamIncrement, StreamAcknowledgement>) => {
      call.on('data', ({ id, deltas }: StreamIncrement) => {
        add(deltas)
        call.write({ id, refusals: [], error: '' })
      })
      call.on('end', () => call.end())
    },
  })
  server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, port) => {
    if (error !== null) throw error
    parentPort?.postMessage(port)
  })
}

/** A contender's turn, and what of it is not timed: called after each turn has been checked. */
interface Work {
  readonly turn: () => Promise<void>
  readonly between?: () => Promise<void>
}

/** A server of its own for a contender, whose sum is compared with the increments after each turn. */
function contender(
  name: string,
  increments: number,
  manner: Manner,
  prepare: (address: string) => Work | Promise<Work>,
): Contender {
  return {
    name,
    prepare: async (): Promise<Turns> => {
      const worker = new Worker(new URL(import.meta.url), { workerData: manner })
      worker.unref()
      const [port] = (await once(worker, 'message')) as [number]
      const address = `127.0.0.1:${port}`
      const { turn, between } = await prepare(address)
      const client = counterClient(address)
      let expected = 0
      return {
        async: true,
        turn,
        check: async () => {
          expected += increments
          const sum = await sumOf(client)
          if (sum !== expected) throw new Error(`expected ${expected}, got ${sum}`)
          await between?.()
        },
      }
    },
  }
}

function sumOf(client: CounterClient): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    client.get({ store: 'LIVE', keys: ['sum'] }, new Metadata(), {}, (error, reply) =>
      error === null ? resolve(reply?.values[0]) : reject(error),
    )
  })
}

/** So many callers, each of which makes its next increment when it has the answer to the last. */
async function eachWaits(
  callers: number,
  increments: number,
  increment: (index: number) => Promise<unknown>,
): Promise<void> {
  let next = 0
  const caller = async (): Promise<void> => {
    while (next < increments) await increment(next++)
  }
  await Promise.all(Array.from({ length: callers }, caller))
}

const key = (index: number): string => `counter ${index % 1000}`
const requestOf = (index: number): IncrementRequest => ({ key: key(index), delta: 1, acknowledgement: 'REDIS' })

const poolOf = (address: string, channels: number | ChannelGrowth): GrpcChannelPool<CounterClient> =>
  new GrpcChannelPool((options) => counterClient(address, options), { channels })

const warmPoolOf = async (
  address: string,
  channels: number | ChannelGrowth,
): Promise<GrpcChannelPool<CounterClient>> => {
  const pool = poolOf(address, channels)
  await pool.warmUp({ deadlineMs: 10_000 })
  return pool
}

/** A pool's first call: with its connection made before, or to be made. */
function firstCall(): Contest {
  const channels = 1
  const manner = { answerMs: 0 }
  const make = (name: string, warm: boolean): Contender =>
    contender(name, 1, manner, async (address) => {
      const next = (): Promise<GrpcChannelPool<CounterClient>> | GrpcChannelPool<CounterClient> =>
        warm ? warmPoolOf(address, channels) : poolOf(address, channels)
      let pool = await next()
      return {
        turn: async () => {
          await pool.call('increment', requestOf(0))
        },
        between: async () => {
          await pool.close()
          pool = await next()
        },
      }
    })
  return {
    name: 'the first call of a pool',
    operation: 'call',
    operations: 1,
    contenders: [make('spillway, after warmUp', true), make('spillway, cold: the call connects', false)],
  }
}

/** More callers than a connection has streams: what is over waits inside Node. */
function manyCallers(): Contest {
  const increments = 500
  const callers = 500
  const manner = { answerMs: 40 }
  const unary = (name: string, channels: number | ChannelGrowth): Contender =>
    contender(name, increments, manner, async (address) => {
      const pool = await warmPoolOf(address, channels)
      return { turn: () => eachWaits(callers, increments, (index) => pool.call('increment', requestOf(index))) }
    })
  const bare = contender('grpc-js, one client', increments, manner, (address) => {
    const client = counterClient(address)
    return {
      turn: () =>
        eachWaits(
          callers,
          increments,
          (index) =>
            new Promise((resolve, reject) => {
              client.increment(requestOf(index), new Metadata(), {}, (error, reply) =>
                error === null ? resolve(reply) : reject(error),
              )
            }),
        ),
    }
  })
  return {
    name: `${callers} callers, a server that takes ${manner.answerMs} ms and ${streamsPerConnection} calls a connection`,
    operation: 'increment',
    operations: increments,
    contenders: [
      unary('spillway, 20 channels', 20),
      unary('spillway, one channel, growing under load', { min: 1, max: 20, maxStreamsPerChannel: 100 }),
      unary('spillway, 1 channel', 1),
      bare,
    ],
  }
}

/** The same increments as calls, as batches and as messages of a stream, each with an answer of its own. */
function waysToSend(): Contest {
  const increments = 2000
  const callers = 100
  const manner = { answerMs: 0 }
  const streamed = contender('spillway, AckedStream, a message an increment', increments, manner, async (address) => {
    const pool = await warmPoolOf(address, 1)
    const stream = new AckedStream<number, StreamIncrement, StreamAcknowledgement>(
      () => pool.openStream('streamIncrements'),
      { message: (index, id) => ({ id, keys: [key(index)], deltas: [1] }), idOf: ({ id }) => id },
    )
    return { turn: () => eachWaits(callers, increments, (index) => stream.send(index)) }
  })
  const batched = contender('spillway, AsyncBatcher over a channel', increments, manner, async (address) => {
    const pool = await warmPoolOf(address, 1)
    const batcher = new AsyncBatcher<CounterIncrement, number>(
      async (items, { batchId }) => {
        const keys = items.map((item) => item.key)
        const deltas = items.map((item) => item.delta)
        return (await pool.call('batchIncrement', { batchId, store: 'LIVE', keys, deltas, answers: true })).values
      },
      { concurrency: 2 },
    )
    return { turn: () => eachWaits(callers, increments, (index) => batcher.add({ key: key(index), delta: 1 })) }
  })
  const unary = contender('spillway, a unary call an increment', increments, manner, async (address) => {
    const pool = await warmPoolOf(address, 1)
    return { turn: () => eachWaits(callers, increments, (index) => pool.call('increment', requestOf(index))) }
  })
  return {
    name: `batches, messages or calls, ${callers} callers wait`,
    operation: 'increment',
    operations: increments,
    contenders: [batched, streamed, unary],
  }
}

if (isMainThread) await serveSuite([firstCall(), manyCallers(), waysToSend()])
else serve(workerData as Manner)
