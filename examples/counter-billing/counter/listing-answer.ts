import type { FastifyReply } from 'fastify'
import type { ListQuery } from '../http/schemas.ts'
import type { CounterPage } from './listing.ts'

/** A page as HTTP has it: with the cursors of its neighbours, and links to them (RFC 8288). */
export function answerPage(reply: FastifyReply, query: ListQuery, page: CounterPage): Record<string, unknown> {
  const { next = null, previous = null } = page
  const links = [
    next !== null && linkTo(query, { after: next }, 'next'),
    previous !== null && linkTo(query, { before: previous }, 'prev'),
  ].filter((link) => link !== false)
  if (links.length > 0) reply.header('link', links.join(', '))
  const counters = page.counters.map(({ counterType, value }) => ({ counter_type: counterType, value }))
  return { resource_id: query.resource_id, counters, next, previous }
}

function linkTo({ resource_id, limit, fresh }: ListQuery, place: Record<string, string>, relation: string): string {
  const query = new URLSearchParams({ resource_id, limit, ...(fresh === 'true' && { fresh }), ...place })
  return `</api/v1/counter?${query}>; rel="${relation}"`
}
