import { setTimeout as delay } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'
import { text } from '../counter/counters.ts'
import { healthAnswers, readyAnswers } from './answer-schemas.ts'
import { sendProblem } from './problems.ts'

/** A part of the service, and how to learn that it answers. */
export interface HealthCheck {
  readonly name: string
  /** Resolves once it has answered. */
  check(): Promise<unknown>
}

/** How long what was found is answered again, in milliseconds: nobody makes work by asking often. */
const keptMs = 1_000
/** How long a part may take to answer, in milliseconds. */
const patienceMs = 2_000

interface Findings {
  readonly at: number
  readonly parts: Promise<Readonly<Record<string, string>>>
}

/**
 * Two questions: `/healthz`, whether the process lives, which whoever restarts it asks; and `/readyz`, whether it can answer requests,
 * which whoever sends it some asks.
 */
export class Health {
  readonly #checks: readonly HealthCheck[]
  readonly #more: () => Record<string, unknown>
  #findings: Findings | undefined
  #closing = false
  #asked = false

  /** @param more - what both answers have beside it. */
  constructor(checks: readonly HealthCheck[], more: () => Record<string, unknown>) {
    this.#checks = checks
    this.#more = more
  }

  /** Whether it is shutting down. */
  get closing(): boolean {
    return this.#closing
  }

  addRoutes(app: FastifyInstance): void {
    app.get('/healthz', { schema: { response: healthAnswers }, config: { rateLimit: false } }, async () => ({
      status: 'ok',
      ...this.#more(),
    }))
    app.get(
      '/readyz',
      { schema: { response: readyAnswers }, config: { rateLimit: false } },
      async (_request, reply) => {
        this.#asked = true
        reply.header('cache-control', 'no-store')
        if (this.#closing) return sendProblem(reply, 'not_ready', 'it is shutting down', { closing: true })
        const parts = await this.#look()
        const failing = Object.entries(parts).filter(([, state]) => state !== 'ok')
        if (failing.length === 0) return { status: 'ready', parts, ...this.#more() }
        const detail = failing.map(([name, state]) => `${name}: ${state}`).join('; ')
        return sendProblem(reply, 'not_ready', detail, { parts, ...this.#more() })
      },
    )
  }

  /** Says from now on that it isn't ready, and gives those who have asked the time to ask again. */
  async close(drainMs: number): Promise<void> {
    this.#closing = true
    if (this.#asked && drainMs > 0) await delay(drainMs)
  }

  #look(): Findings['parts'] {
    const now = performance.now()
    if (this.#findings === undefined || now - this.#findings.at > keptMs) {
      this.#findings = { at: now, parts: askAll(this.#checks) }
    }
    return this.#findings.parts
  }
}

async function askAll(checks: readonly HealthCheck[]): Promise<Record<string, string>> {
  const states = await Promise.all(checks.map(ask))
  return Object.fromEntries(checks.map(({ name }, index) => [name, states[index] as string]))
}

async function ask({ check }: HealthCheck): Promise<string> {
  const patience = new AbortController()
  const late = delay(patienceMs, `it hasn't answered in ${patienceMs} ms`, { signal: patience.signal })
  try {
    return await Promise.race([check().then(() => 'ok'), late])
  } catch (error) {
    return text(error)
  } finally {
    patience.abort()
  }
}
