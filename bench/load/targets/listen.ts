import Fastify, { type FastifyInstance } from 'fastify'
import { type IncrementBody, incrementBody, keyOf } from '../../../examples/counter-billing/http/schemas.ts'

/**
 * Listens as the example's gateway does, the same schema included, and does with each increment what it is told: every target
 * differs in that alone.
 */
export async function listen(increment: (key: string, delta: number) => unknown): Promise<FastifyInstance> {
  const app = Fastify({ ajv: { customOptions: { coerceTypes: false, removeAdditional: false } } })
  app.post<{ Body: IncrementBody }>('/api/v1/counter/increment', { schema: { body: incrementBody } }, ({ body }) =>
    increment(keyOf(body), body.delta),
  )
  return serve(app)
}

/** Listens on a free port, tells the parent which, and ends with it. */
export async function serve(app: FastifyInstance): Promise<FastifyInstance> {
  const url = await app.listen({ host: '127.0.0.1', port: 0 })
  process.send?.({ type: 'ready', url })
  process.once('SIGTERM', () => void app.close().then(() => process.exit(0)))
  process.once('disconnect', () => process.exit(1))
  return app
}

/** An environment variable that the run sets. */
export function setting(name: string): string {
  const value = process.env[name]
  if (value === undefined) throw new Error(`${name} is not set`)
  return value
}
