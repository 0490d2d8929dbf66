import { createHash, randomUUID } from 'node:crypto'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { callerName } from '../auth/caller.ts'
import { type Log, text } from '../counter/counters.ts'
import { unavailable } from '../http/error-answers.ts'
import { instancePrefix, problemType, sendProblem } from '../http/problems.ts'
import type { Rule } from '../http/rules.ts'
import { type AnswerStore, type Begun, type StoredAnswer, untilAnswered } from './answer-stores.ts'
import { keyedPrefix } from './keyed-batches.ts'

/** The request header that makes a write one that counts once (draft-ietf-httpapi-idempotency-key-header). */
export const idempotencyKey = 'idempotency-key'

/** A string of structured fields, or the same without its quotes, as many clients send it. */
export const idempotencyKeyRule: Rule = {
  type: 'string',
  pattern: '^(?:"[ !#-\\[\\]-~]{1,255}"|[!#-+\\--\\[\\]-~]{1,255})$',
  description: 'one key of 1 to 255 visible characters, in quotes or without quotes and commas',
}

/** The headers of a route that takes a key. */
export const keyedHeaders: Rule = {
  type: 'object',
  properties: { [idempotencyKey]: idempotencyKeyRule },
  description: 'headers',
}

/** What is answered to a write under a key. */
export interface KeyedAnswer extends StoredAnswer {
  /** Whether it is the answer from now on. Without it the same request, made again, is carried out again: nothing was done. */
  readonly final: boolean
}

/** A write under a key, as its handler has it. */
export interface KeyedWrite {
  /** The id under which stores apply its increments once: the same for the same request under the same key. */
  readonly batchId: string
  /** Since when the key has been there, in milliseconds; 0 for who comes first. */
  readonly ageMs: number
}

/** How long a write has until somebody else may take it up, in milliseconds: whoever had it has died, or is as good as dead. */
export const leaseMs = 15_000

/**
 * Answers writes under an `Idempotency-Key`: a request that comes again is answered as the first one was.
 *
 * The key is noted before the write, with what was asked; the answer after it. What was noted without an answer says that somebody is
 * still at it, or has died: once its lease is over, the next request takes it up. It does what the first one did or was about to do, under
 * the same batch id, which the stores apply once, so that it makes no difference how far the first one came.
 */
export class AnsweredKeys {
  readonly #store: AnswerStore
  readonly #log: Log
  readonly #counts = { answered: 0, replayed: 0, refused: 0, underWay: 0, unnoted: 0 }

  constructor(store: AnswerStore, log: Log) {
    this.#store = store
    this.#log = log
  }

  /** How many writes were answered, replayed, refused for another one's key or because they are under way, and how many answers weren't noted. */
  stats(): Readonly<Record<'answered' | 'replayed' | 'refused' | 'underWay' | 'unnoted', number>> {
    return { ...this.#counts }
  }

  /**
   * Answers a write under its key.
   *
   * @param replayed - is told of an answer that was given before, maybe by another gateway, and is given again.
   */
  async answer(
    request: FastifyRequest,
    reply: FastifyReply,
    write: (keyed: KeyedWrite) => Promise<KeyedAnswer>,
    replayed: (answer: StoredAnswer) => void = () => undefined,
  ): Promise<FastifyReply> {
    const id = digest(`${callerName(request)}\n${keyOf(request)}`)
    const fingerprint = digest(`${request.method} ${request.url}\n${canonical(request.body)}`)
    const owner = randomUUID()
    let begun: Begun
    try {
      begun = await this.#store.begin(id, { fingerprint, owner, leaseMs })
    } catch (error) {
      // The key may have been noted all the same; nobody is at it.
      this.#store.release(id, owner).catch(() => undefined)
      // This request has done nothing, and nobody knows of an earlier one.
      return unavailable(reply, error, { applied: 'unknown' })
    }
    if (begun.state === 'answered') replayed(begun.answer)
    if (begun.state !== 'yours') return this.#answerKnown(reply, begun)
    const batchId = `${keyedPrefix}${digest(`${id}\n${fingerprint}`)}`
    let answer: KeyedAnswer
    try {
      answer = await write({ batchId, ageMs: begun.ageMs })
    } catch (error) {
      await this.#note(this.#store.release(id, owner))
      throw error
    }
    const { status, body, final } = answer
    // Before it is sent: whoever has the answer finds it again.
    await this.#note(final ? this.#store.finish(id, owner, { status, body }) : this.#store.release(id, owner))
    this.#counts.answered++
    return sendAnswer(reply, answer)
  }

  #answerKnown(reply: FastifyReply, begun: Exclude<Begun, { state: 'yours' }>): FastifyReply {
    if (begun.state === 'answered') {
      this.#counts.replayed++
      return sendAnswer(reply.header('idempotency-replayed', 'true'), begun.answer)
    }
    const details = { field: idempotencyKey }
    if (begun.state === 'other') {
      this.#counts.refused++
      const detail = 'the key was sent with another request, and stands for that one'
      return sendProblem(reply, 'idempotency_key_reused', detail, { ...details, applied: 'no' })
    }
    this.#counts.underWay++
    const detail = 'the request with this key is under way; it has an answer later'
    return sendProblem(reply, 'request_in_progress', detail, { ...details, retry_after: untilAnswered(begun) })
  }

  /** An answer that isn't noted makes the next request do the same again, under the same batch id. */
  async #note(noted: Promise<void>): Promise<void> {
    try {
      await noted
    } catch (error) {
      this.#counts.unnoted++
      this.#log(
        'warn',
        `what was answered under a key wasn't noted, and is made again if it comes again: ${text(error)}`,
      )
    }
  }
}

/** Whether a request has a key. */
export function isKeyed({ headers }: FastifyRequest): boolean {
  return headers[idempotencyKey] !== undefined
}

function keyOf({ headers }: FastifyRequest): string {
  return String(headers[idempotencyKey]).replace(/^"(.*)"$/, '$1')
}

/** Sends what may be a problem, and have been answered to an earlier request. */
function sendAnswer(reply: FastifyReply, { status, body }: StoredAnswer): FastifyReply {
  // Whoever waited has been told by now that it takes too long.
  if (reply.sent) return reply
  if (body['retry_after'] !== undefined) reply.header('retry-after', body['retry_after'])
  if (status < 400) return reply.code(status).send(body)
  return reply
    .code(status)
    .type(problemType)
    .send({ ...body, instance: `${instancePrefix}${reply.request.id}` })
}

function digest(value: string): string {
  return createHash('sha256').update(value).digest('base64url')
}

/** JSON in which the order of members makes no difference. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_key, member: unknown) => {
    if (typeof member !== 'object' || member === null || Array.isArray(member)) return member
    return Object.fromEntries(Object.entries(member).sort(([a], [b]) => (a < b ? -1 : 1)))
  })
}
