import type { FastifyInstance } from 'fastify'
import { type AnswerClass, answerClasses, type RequestSample } from './sample.ts'

/** Latencies that are kept of a second: beyond that, each has the same chance to be among them. */
const kept = 8_192

/** How the requests of a gateway went: counted only while somebody looks. */
export class RequestTimes {
  readonly #latencies = new Float64Array(kept)
  #counts = noAnswers()
  #answers = 0
  #counting = false

  /** Listens to all requests of the server, but those of the dashboard itself. */
  watch(app: FastifyInstance, own: string): void {
    app.addHook('onResponse', (request, reply, done) => {
      if (this.#counting && !request.url.startsWith(own)) this.#record(reply.statusCode, reply.elapsedTime)
      done()
    })
  }

  start(): void {
    this.#counting = true
    this.#reset()
  }

  stop(): void {
    this.#counting = false
  }

  /** What there was since the last look. */
  take(seconds: number): RequestSample {
    const count = Math.min(this.#answers, kept)
    const sorted = this.#latencies.slice(0, count).sort()
    const at = (share: number): number => sorted[Math.max(0, Math.ceil(share * count) - 1)] ?? 0
    const rates = { ...this.#counts }
    for (const answer of answerClasses) rates[answer] /= seconds
    this.#reset()
    return { rates, latencyMs: count === 0 ? undefined : { p50: at(0.5), p95: at(0.95), p99: at(0.99) } }
  }

  #record(status: number, elapsedMs: number): void {
    this.#counts[status >= 500 ? '5xx' : status >= 400 ? '4xx' : '2xx']++
    const place = this.#answers < kept ? this.#answers : Math.floor(Math.random() * (this.#answers + 1))
    if (place < kept) this.#latencies[place] = elapsedMs
    this.#answers++
  }

  #reset(): void {
    this.#counts = noAnswers()
    this.#answers = 0
  }
}

function noAnswers(): Record<AnswerClass, number> {
  return { '2xx': 0, '4xx': 0, '5xx': 0 }
}
