import { timingSafeEqual } from 'node:crypto'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { isLocal } from './access.ts'
import { type FaultControl, FaultRefused } from './fault-control.ts'
import { type FaultAction, serverConditions } from './sample.ts'

/** A burst that is more than this, or lasts longer, is refused. */
const mostBurst = { factor: 10, seconds: 60 }

const body = {
  oneOf: [
    {
      type: 'object',
      required: ['do', 'condition'],
      additionalProperties: false,
      properties: { do: { enum: ['redis', 'postgres'] }, condition: { enum: serverConditions } },
    },
    {
      type: 'object',
      required: ['do', 'instance'],
      additionalProperties: false,
      properties: { do: { enum: ['kill', 'start'] }, instance: { type: 'string', maxLength: 100 } },
    },
    {
      type: 'object',
      required: ['do', 'factor', 'seconds'],
      additionalProperties: false,
      properties: {
        do: { const: 'burst' },
        factor: { type: 'integer', minimum: 2, maximum: mostBurst.factor },
        seconds: { type: 'integer', minimum: 1, maximum: mostBurst.seconds },
      },
    },
    {
      type: 'object',
      required: ['do'],
      additionalProperties: false,
      properties: { do: { enum: ['clear', 'compare', 'load-stop', 'load-start'] } },
    },
  ],
}

/**
 * Takes what the fault panel asks for: from this machine, from the page itself, and with the token that only it was told. A page of
 * somebody else's in the same browser has none of it.
 */
export function addFaultRoutes(app: FastifyInstance, path: string, faults: FaultControl, token: string): void {
  app.post<{ Body: FaultAction }>(
    path,
    {
      schema: { body },
      compress: false,
      // Before the body is read.
      onRequest: async (request, reply) => {
        const problem = problemOf(request, token)
        return problem && refuse(reply, 403, problem)
      },
    },
    async (request, reply) => {
      try {
        await faults.apply(request.body)
        return await reply.code(202).send(faults.state())
      } catch (error) {
        if (error instanceof FaultRefused) return refuse(reply, 409, error.message)
        throw error
      }
    },
  )
}

function problemOf(request: FastifyRequest, token: string): string | undefined {
  const { origin, host, 'sec-fetch-site': site = 'same-origin', 'x-dashboard-token': given } = request.headers
  if (!isLocal(request)) return 'faults are for who asks from this machine'
  if (origin !== `http://${host}` || site !== 'same-origin') return 'faults are for the page of the dashboard itself'
  if (typeof given !== 'string' || !isSame(given, token)) return 'the token is another one by now: load the page anew'
  return undefined
}

function isSame(given: string, token: string): boolean {
  const [a, b] = [Buffer.from(given), Buffer.from(token)]
  return a.length === b.length && timingSafeEqual(a, b)
}

function refuse(reply: FastifyReply, status: 403 | 409, message: string): FastifyReply {
  return reply.code(status).send({ error: status === 403 ? 'forbidden' : 'conflict', message })
}
