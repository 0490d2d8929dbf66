import { once } from 'node:events'
import { parentPort, Worker, workerData } from 'node:worker_threads'
import {
  Metadata,
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type ServerUnaryCall,
  type sendUnaryData,
} from '@grpc/grpc-js'
import { AsyncBatcher, type CounterIncrement } from 'spillway'
import { type ChannelGrowth, GrpcChannelPool } from 'spillway/grpc'
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
} from '../../examples/counter-billing/counter/protocol.ts'
import type { Aim, Contender, Turns } from './contest.ts'

/** How the server of a contender behaves. */
export interface Manner {
  /** How long it takes for a unary call, in milliseconds. */
  readonly answerMs: number
  /** How many calls it grants a connection at a time; without it, as many as grpc-js does. */
  readonly streamsPerConnection?: number
}

/** A contender's turn, and what of it is not timed: called after each turn has been checked. */
export interface Work {
  readonly turn: () => Promise<void>
  readonly between?: () => Promise<void>
}

/** The server, a sum, on the thread of a contender's own: what a suite does when it isn't the main thread. */
export function serveSum(): void {
  const { answerMs, streamsPerConnection } = workerData as Manner
  let sum = 0
  const add = (deltas: readonly number[]): number[] => deltas.map((delta) => (sum += delta))
  const server = new Server(
    streamsPerConnection === undefined ? {} : { 'grpc.max_concurrent_streams': streamsPerConnection },
  )
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

/**
 * A contender with a server of its own, whose sum is compared with the increments after each turn.
 *
 * @param suite - the suite's own address, `import.meta.url`: it is run again, on the server's thread.
 */
export function summed(
  suite: string,
  setting: {
    readonly name: string
    readonly aim?: Aim | undefined
    readonly increments: number
    readonly manner: Manner
  },
  prepare: (address: string) => Work | Promise<Work>,
): Contender {
  const { name, aim, increments, manner } = setting
  return {
    name,
    ...(aim === undefined ? {} : { aim }),
    prepare: async (): Promise<Turns> => {
      const worker = new Worker(new URL(suite), { workerData: manner })
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
export async function eachWaits(
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

/** The counter of an increment: one of a thousand. */
export const key = (index: number): string => `counter ${index % 1000}`

/** The request that makes it. */
export const requestOf = (index: number): IncrementRequest => ({ key: key(index), delta: 1, acknowledgement: 'REDIS' })

/** A pool whose channels are connected before the first turn. */
export async function warmPoolOf(
  address: string,
  channels: number | ChannelGrowth,
): Promise<GrpcChannelPool<CounterClient>> {
  const pool = new GrpcChannelPool((options) => counterClient(address, options), { channels })
  await pool.warmUp({ deadlineMs: 10_000 })
  return pool
}

/** Increments whose callers wait, in batches over a channel. */
export function batcherOver(pool: GrpcChannelPool<CounterClient>): AsyncBatcher<CounterIncrement, number> {
  return new AsyncBatcher(
    async (items, { batchId }) => {
      const keys = items.map((item) => item.key)
      const deltas = items.map((item) => item.delta)
      return (await pool.call('batchIncrement', { batchId, store: 'LIVE', keys, deltas, answers: true })).values
    },
    { concurrency: 2 },
  )
}

/** An increment as one makes it oneself. */
export function bareCall(client: CounterClient, index: number): Promise<IncrementReply | undefined> {
  return new Promise((resolve, reject) => {
    client.increment(requestOf(index), new Metadata(), {}, (error, reply) =>
      error === null ? resolve(reply) : reject(error),
    )
  })
}
