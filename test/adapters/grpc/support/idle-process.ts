// A process that uses a pool and a stream, closes neither, and has nothing more to do.
import { AckedStream, GrpcChannelPool } from 'spillway/grpc'
import { clientOf, type StreamAck, type StreamMessage } from './counter-service.js'

const pool = new GrpcChannelPool(clientOf(process.argv[2] as string), { channels: 3, keepalive: 'aggressive' })
const stream = new AckedStream<string, StreamMessage, StreamAck>(() => pool.openStream('increments'), {
  message: (key, id) => ({ id, key }),
  idOf: ({ id }) => id,
  idleMs: 50,
})

await pool.warmUp()
await pool.call('get', { key: 'a' })
await stream.send('a')
console.log('done')
