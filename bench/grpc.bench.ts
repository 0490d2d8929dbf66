import { once } from 'node:events'
import { isMainThread, parentPort, Worker } from 'node:worker_threads'
import {
  Metadata,
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type ServerUnaryCall,
  type sendUnaryData,
} from '@grpc/grpc-js'
import { AsyncBatcher, type CounterIncrement } from 'spillway'
import { AckedStream, GrpcChannelPool } from 'spillway/grpc'
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
import type { Aim, Contender, Contest } from './harness/contest.ts'
import { serveSuite } from './harness/suite-process.ts'

// Increments over gRPC to a server on another thread that only adds them up, from the first call of a turn until the last
// answer is there.

const increments = 2000
const callers = 100

/** The server: a sum, and nothing else. */
function serve(): void {
  let sum = 0
  const add = (deltas: readonly number[]): number[] => deltas.map((delta) => (sum += delta))
  const server = new Server()
  server.addService(counterService, {
    increment: (call: ServerUnaryCall<IncrementRequest, IncrementReply>, answer: sendUnaryData<IncrementReply>) => {
      answer(null, { value: add([call.request.delta])[0] ?? 0 })
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

/** A server of its own for a contender, whose sum is compared with the increments after each turn. */
function contender(
  name: string,
  aim: Aim | undefined,
  prepare: (address: string) => Promise<() => Promise<void>> | (() => Promise<void>),
): Contender {
  return {
    name,
    ...(aim === undefined ? {} : { aim }),
    prepare: async () => {
      const worker = new Worker(new URL(import.meta.url))
      worker.unref()
      const [port] = (await once(worker, 'message')) as [number]
      const address = `127.0.0.1:${port}`
      const turn = await prepare(address)
      const client = counterClient(address)
      let expected = 0
      return {
        async: true,
        turn,
        check: async () => {
          expected += increments
          const sum = await new Promise<number | undefined>((resolve, reject) => {
            client.get({ store: 'LIVE', keys: ['sum'] }, new Metadata(), {}, (error, reply) =>
              error === null ? resolve(reply?.values[0]) : reject(error),
            )
          })
          if (sum !== expected) throw new Error(`expected ${expected}, got ${sum}`)
        },
      }
    },
  }
}

async function eachWaits(increment: (index: number) => Promise<unknown>): Promise<void> {
  let next = 0
  const caller = async (): Promise<void> => {
    while (next < increments) await increment(next++)
  }
  await Promise.all(Array.from({ length: callers }, caller))
}

const poolOf = async (address: string, channels: number): Promise<GrpcChannelPool<CounterClient>> => {
  const pool = new GrpcChannelPool((options) => counterClient(address, options), { channels })
  await pool.warmUp()
  return pool
}

const key = (index: number): string => `counter ${index % 1000}`

function contests(): Contest[] {
  const batched = contender(
    `spillway, AsyncBatcher over a channel, ${callers} callers wait`,
    undefined,
    async (address) => {
      const pool = await poolOf(address, 1)
      const batcher = new AsyncBatcher<CounterIncrement, number>(
        async (items, { batchId }) => {
          const keys = items.map((item) => item.key)
          const deltas = items.map((item) => item.delta)
          return (await pool.call('batchIncrement', { batchId, store: 'LIVE', keys, deltas, answers: true })).values
        },
        { concurrency: 2 },
      )
      return () => eachWaits((index) => batcher.add({ key: key(index), delta: 1 }))
    },
  )
  const streamed = contender('spillway, AckedStream, batches of 100', undefined, async (address) => {
    const pool = await poolOf(address, 1)
    const stream = new AckedStream<StreamIncrement['deltas'], StreamIncrement, StreamAcknowledgement>(
      () => pool.openStream('streamIncrements'),
      {
        message: (deltas, id) => ({ id, keys: deltas.map((_, index) => key(index)), deltas }),
        idOf: ({ id }) => id,
      },
    )
    const batch = new Array<number>(100).fill(1)
    return async () => {
      await Promise.all(Array.from({ length: increments / batch.length }, () => stream.send(batch)))
    }
  })
  const unary = (aim?: Aim): Contender =>
    contender(`grpc-js, a unary call an increment, ${callers} callers`, aim, (address) => {
      const client = counterClient(address)
      return () =>
        eachWaits(
          (index) =>
            new Promise((resolve, reject) => {
              client.increment(
                { key: key(index), delta: 1, acknowledgement: 'REDIS' },
                new Metadata(),
                {},
                (error, reply) => (error === null ? resolve(reply) : reject(error)),
              )
            }),
        )
    })
  const unaryOverPool = contender(
    `spillway, 20 channels, a unary call an increment, ${callers} callers`,
    undefined,
    async (address) => {
      const pool = await poolOf(address, 20)
      return () => eachWaits((index) => pool.call('increment', { key: key(index), delta: 1, acknowledgement: 'REDIS' }))
    },
  )
  const common = { operation: 'increment', operations: increments }
  return [
    {
      ...common,
      name: 'batched, each caller its own answer',
      contenders: [batched, unary({ timesFaster: 20 }), unaryOverPool],
    },
    { ...common, name: 'a stream of batches', contenders: [streamed, unary({ timesFaster: 20 })] },
  ]
}

if (isMainThread) await serveSuite(contests())
else serve()
