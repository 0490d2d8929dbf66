import { isMainThread } from 'node:worker_threads'
import { AckedStream, type ChannelGrowth, GrpcChannelPool } from 'spillway/grpc'
import {
  type CounterClient,
  counterClient,
  type StreamAcknowledgement,
  type StreamIncrement,
} from '../examples/counter-billing/counter/protocol.ts'
import type { Contender, Contest } from './harness/contest.ts'
import {
  bareCall,
  batcherOver,
  eachWaits,
  key,
  type Manner,
  requestOf,
  serveSum,
  summed,
  type Work,
  warmPoolOf,
} from './harness/grpc-sum.ts'
import { serveSuite } from './harness/suite-process.ts'

// What connections are for. The server runs on another thread, grants 100 calls at a time to a connection, as many servers
// do, and takes a while to answer a unary call where a contest says so, as one that asks a database does.

const streamsPerConnection = 100

const contender = (
  name: string,
  increments: number,
  manner: Manner,
  prepare: (address: string) => Work | Promise<Work>,
): Contender => summed(import.meta.url, { name, increments, manner }, prepare)

const coldPoolOf = (address: string, channels: number): GrpcChannelPool<CounterClient> =>
  new GrpcChannelPool((options) => counterClient(address, options), { channels })

/** A pool's first call: with its connection made before, or to be made. */
function firstCall(): Contest {
  const channels = 1
  const manner = { answerMs: 0, streamsPerConnection }
  const make = (name: string, warm: boolean): Contender =>
    contender(name, 1, manner, async (address) => {
      const next = (): Promise<GrpcChannelPool<CounterClient>> | GrpcChannelPool<CounterClient> =>
        warm ? warmPoolOf(address, channels) : coldPoolOf(address, channels)
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
  const manner = { answerMs: 40, streamsPerConnection }
  const unary = (name: string, channels: number | ChannelGrowth): Contender =>
    contender(name, increments, manner, async (address) => {
      const pool = await warmPoolOf(address, channels)
      return { turn: () => eachWaits(callers, increments, (index) => pool.call('increment', requestOf(index))) }
    })
  const bare = contender('grpc-js, one client', increments, manner, (address) => {
    const client = counterClient(address)
    return { turn: () => eachWaits(callers, increments, (index) => bareCall(client, index)) }
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
  const manner = { answerMs: 0, streamsPerConnection }
  const streamed = contender('spillway, AckedStream, a message an increment', increments, manner, async (address) => {
    const pool = await warmPoolOf(address, 1)
    const stream = new AckedStream<number, StreamIncrement, StreamAcknowledgement>(
      () => pool.openStream('streamIncrements'),
      { message: (index, id) => ({ id, keys: [key(index)], deltas: [1] }), idOf: ({ id }) => id },
    )
    return { turn: () => eachWaits(callers, increments, (index) => stream.send(index)) }
  })
  const batched = contender('spillway, AsyncBatcher over a channel', increments, manner, async (address) => {
    const batcher = batcherOver(await warmPoolOf(address, 1))
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
else serveSum()
