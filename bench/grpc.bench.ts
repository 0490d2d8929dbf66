import { isMainThread } from 'node:worker_threads'
import { AckedStream } from 'spillway/grpc'
import {
  counterClient,
  type StreamAcknowledgement,
  type StreamIncrement,
} from '../examples/counter-billing/counter/protocol.ts'
import type { Aim, Contender, Contest } from './harness/contest.ts'
import {
  bareCall,
  batcherOver,
  eachWaits,
  key,
  requestOf,
  serveSum,
  summed,
  type Work,
  warmPoolOf,
} from './harness/grpc-sum.ts'
import { serveSuite } from './harness/suite-process.ts'

// Increments over gRPC to a server on another thread that only adds them up, from the first call of a turn until the last
// answer is there.

const increments = 2000
const callers = 100
const manner = { answerMs: 0 }

const contender = (name: string, aim: Aim | undefined, prepare: (address: string) => Work | Promise<Work>): Contender =>
  summed(import.meta.url, { name, aim, increments, manner }, prepare)

function contests(): Contest[] {
  const batched = contender(
    `spillway, AsyncBatcher over a channel, ${callers} callers wait`,
    undefined,
    async (address) => {
      const batcher = batcherOver(await warmPoolOf(address, 1))
      return { turn: () => eachWaits(callers, increments, (index) => batcher.add({ key: key(index), delta: 1 })) }
    },
  )
  const streamed = contender('spillway, AckedStream, batches of 100', undefined, async (address) => {
    const pool = await warmPoolOf(address, 1)
    const stream = new AckedStream<StreamIncrement['deltas'], StreamIncrement, StreamAcknowledgement>(
      () => pool.openStream('streamIncrements'),
      {
        message: (deltas, id) => ({ id, keys: deltas.map((_, index) => key(index)), deltas }),
        idOf: ({ id }) => id,
      },
    )
    const batch = new Array<number>(100).fill(1)
    return {
      turn: async () => {
        await Promise.all(Array.from({ length: increments / batch.length }, () => stream.send(batch)))
      },
    }
  })
  const unary = (aim?: Aim): Contender =>
    contender(`grpc-js, a unary call an increment, ${callers} callers`, aim, (address) => {
      const client = counterClient(address)
      return { turn: () => eachWaits(callers, increments, (index) => bareCall(client, index)) }
    })
  const unaryOverPool = contender(
    `spillway, 20 channels, a unary call an increment, ${callers} callers`,
    undefined,
    async (address) => {
      const pool = await warmPoolOf(address, 20)
      return { turn: () => eachWaits(callers, increments, (index) => pool.call('increment', requestOf(index))) }
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
else serveSum()
