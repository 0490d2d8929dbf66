// A counter service that makes one Redis and one Postgres write for each call.
import { type handleUnaryCall, Server, ServerCredentials } from '@grpc/grpc-js'
import { Redis } from 'ioredis'
import pg from 'pg'
import {
  counterService,
  type IncrementReply,
  type IncrementRequest,
} from '../../../examples/counter-billing/counter/protocol.ts'
import { setting } from './listen.ts'

const redis = new Redis(setting('REDIS_URL'))
const pool = new pg.Pool({ connectionString: setting('DATABASE_URL'), max: 10 })
await pool.query('CREATE TABLE IF NOT EXISTS naive_counters (key text PRIMARY KEY, value bigint NOT NULL)')

/** Prepared, so that it is the writing that is compared, not the parsing. */
const upsert = {
  name: 'upsert',
  text: `INSERT INTO naive_counters AS counter (key, value) VALUES ($1, $2)
    ON CONFLICT (key) DO UPDATE SET value = counter.value + excluded.value`,
}

const increment: handleUnaryCall<IncrementRequest, IncrementReply> = ({ request: { key, delta } }, callback) => {
  Promise.all([redis.incrby(`naive:${key}`, delta), pool.query({ ...upsert, values: [key, delta] })]).then(
    ([value]) => callback(null, { value }),
    (error: Error) => callback(error),
  )
}
const unimplemented = (): void => undefined

const server = new Server()
server.addService(counterService, {
  increment,
  batchIncrement: unimplemented,
  get: unimplemented,
  streamIncrements: unimplemented,
})
server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, port) => {
  if (error !== null) throw error
  process.send?.({ type: 'ready', url: `127.0.0.1:${port}` })
})
process.once('SIGTERM', () => process.exit(0))
process.once('disconnect', () => process.exit(1))
