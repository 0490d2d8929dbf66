import Fastify, { type FastifyInstance } from 'fastify'
import { sendProblem } from '../http/problems.ts'
import { closeAll, closeHttp, defaultHost, type Running } from '../running.ts'
import type { Metrics } from './metrics.ts'

/** Addresses of this machine, by which a proxy on it comes, too: what it passes on is its own business. */
export const loopback = /^(?:127\.|::ffff:127\.|::1$)/

/** Answers `GET /metrics`, without a token, and only to this machine: it says much, and it takes a while. */
export function answerMetrics(app: FastifyInstance, metrics: Metrics): void {
  app.get('/metrics', { config: { rateLimit: false } }, async (request, reply) => {
    if (!loopback.test(request.socket.remoteAddress ?? ''))
      return sendProblem(reply, 'forbidden', 'metrics are for who asks from this machine')
    return reply
      .header('content-type', metrics.contentType)
      .header('cache-control', 'no-store')
      .send(await metrics.text())
  })
}

/** A server for the metrics of a process that has no other one, on a port of its own. */
export async function startMetricsServer(metrics: Metrics, port: number): Promise<Running & { readonly url: string }> {
  const app = Fastify()
  answerMetrics(app, metrics)
  const url = await app.listen({ host: defaultHost, port })
  const close = ({ timeoutMs }: { timeoutMs?: number } = {}): Promise<void> => closeHttp(app, timeoutMs)
  const parts = [{ name: 'metrics server', close }]
  return { url: `${url}/metrics`, parts, close: () => closeAll(parts) }
}
