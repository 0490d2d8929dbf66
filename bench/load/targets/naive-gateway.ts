// A gateway that makes a gRPC call for each request: on a client of its own, or on one that all requests share.
import { Metadata } from '@grpc/grpc-js'
import {
  type CounterClient,
  counterClient,
  type IncrementReply,
} from '../../../examples/counter-billing/counter/protocol.ts'
import { listen, setting } from './listen.ts'

const address = setting('COUNTERS')
const shared = setting('CLIENT') === 'shared' ? counterClient(address) : undefined

function increment(client: CounterClient, key: string, delta: number): Promise<IncrementReply> {
  return new Promise((resolve, reject) => {
    client.increment({ key, delta, acknowledgement: 'COMMITTED' }, new Metadata(), {}, (error, reply) =>
      error === null ? resolve(reply ?? {}) : reject(error),
    )
  })
}

await listen(async (key, delta) => {
  if (shared !== undefined) return increment(shared, key, delta)
  // A channel of its own needs a connection of its own: channels with equal arguments would share one.
  const client = counterClient(address, { 'grpc.use_local_subchannel_pool': 1 })
  try {
    return await increment(client, key, delta)
  } finally {
    client.close()
  }
})
