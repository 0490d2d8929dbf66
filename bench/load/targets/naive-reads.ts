// A service that reads its counter from Postgres, or from Redis, in each request.
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import pg from 'pg'
import { type CounterParams, counterParams, keyOf } from '../../../examples/counter-billing/http/schemas.ts'
import { serve, setting } from './listen.ts'

const pool = new pg.Pool({ connectionString: setting('DATABASE_URL'), max: 10 })
const redis = new Redis(setting('REDIS_URL'))
const select = { name: 'select', text: 'SELECT value FROM load_reads WHERE key = $1' }

const reads: Readonly<Record<string, (key: string) => Promise<number>>> = {
  postgres: async (key) => Number((await pool.query({ ...select, values: [key] })).rows[0]?.value ?? 0),
  redis: async (key) => Number((await redis.get(`load-reads:${key}`)) ?? 0),
}
const read = reads[setting('READS')]
if (read === undefined) throw new Error(`there is no way to read called ${setting('READS')}`)

const app = Fastify({ ajv: { customOptions: { coerceTypes: false, removeAdditional: false } } })
app.get<{ Params: CounterParams }>(
  '/api/v1/counter/:resource_id/:counter_type',
  { schema: { params: counterParams } },
  async ({ params }) => ({ ...params, value: await read(keyOf(params)) }),
)
await serve(app)
