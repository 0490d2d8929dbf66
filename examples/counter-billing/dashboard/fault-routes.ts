import { timingSafeEqual } from 'node:crypto'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { isLocal } from './access.ts'
import { type FaultControl, FaultRefused } from './fault-control.ts'
import { type FaultAction, serverConditions } from './sample.ts'

/** A burst that is more than this, or lasts longer, is refused. */
const mostBurst = { factor: 10, seconds: 60 }

const servers = ['redis', 'postgres']
const instances = ['kill', 'start']
const others = ['clear', 'compare', 'load-stop', 'load-start']
const actions = [...servers, ...instances, 'burst', ...others]

/** What an action says beside its name, all of it and nothing else. */
const needs = (action: readonly string[], required: readonly string[]): object => ({
  if: { required: ['do'], properties: { do: { enum: action } } },
  // biome-ignore lint/suspicious/noThenProperty: a word of JSON Schema.
  then: { required, maxProperties: required.length + 1, description: ['do', ...required].join(', ') },
})

const body = {
  type: 'object',
  description: 'a JSON object',
  required: ['do'],
  additionalProperties: false,
  properties: {
    do: { enum: actions, description: `one of ${actions.join(', ')}` },
    condition: { enum: serverConditions, description: `one of ${serverConditions.join(', ')}` },
    instance: { type: 'string', maxLength: 100, description: 'the name of an instance' },
    factor: wholeNumber(2, mostBurst.factor),
    seconds: wholeNumber(1, mostBurst.seconds),
  },
  allOf: [
    needs(servers, ['condition']),
    needs(instances, ['instance']),
    needs(['burst'], ['factor', 'seconds']),
    needs(others, []),
  ],
}

function wholeNumber(minimum: number, maximum: number): object {
  return { type: 'integer', minimum, maximum, description: `a whole number from ${minimum} to ${maximum}` }
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
