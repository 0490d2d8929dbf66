import { randomBytes } from 'node:crypto'
import type { FastifyInstance, FastifyReply } from 'fastify'
import type { TokenVerifier } from '../auth/token-verifier.ts'
import { onlyForLookers } from './access.ts'
import { type Assets, assetsOfPage } from './assets.ts'
import type { FaultControl } from './fault-control.ts'
import { addFaultRoutes } from './fault-routes.ts'
import { type GatewayParts, GatewayView } from './gateway-view.ts'
import { Sampler } from './sampler.ts'

export interface DashboardOptions {
  /** Makes things go wrong on demand. Without it there is no panel, and nothing to ask for. */
  faults?: FaultControl | undefined
}

export const dashboardPath = '/dashboard'

/** Nothing from elsewhere, no script or style within the page, and in nobody's frame. */
const headers = {
  'content-security-policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; " +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
}

/** The page of a gateway on which one sees it work. It costs nothing while nobody looks. */
export class Dashboard {
  readonly #verifier: TokenVerifier | undefined
  readonly #faults: FaultControl | undefined
  readonly #sampler: Sampler
  /** Another one at each start. */
  readonly #token = randomBytes(24).toString('base64url')

  /** @param verifier - of tokens: who has one may look from elsewhere. */
  constructor(parts: GatewayParts, verifier: TokenVerifier | undefined, { faults }: DashboardOptions) {
    this.#verifier = verifier
    this.#faults = faults
    this.#sampler = new Sampler(new GatewayView(parts), faults)
  }

  /** Answers for everything under `/dashboard`. */
  serve(app: FastifyInstance): void {
    this.#sampler.times.watch(app, dashboardPath)
    app.register(async (routes) => {
      routes.addHook('onRequest', onlyForLookers(this.#verifier))
      routes.addHook('onSend', async (_request, reply) => void reply.headers(headers))
      routes.addHook('preClose', (done) => {
        this.#sampler.close()
        done()
      })
      const token = this.#faults && this.#token
      this.#asset(routes, '', 'text/html', ({ page }) => page(token))
      this.#asset(routes, '/main.js', 'text/javascript', ({ script }) => script)
      this.#asset(routes, '/icon.svg', 'image/svg+xml', ({ icon }) => icon)
      this.#asset(routes, '/page.css', 'text/css', ({ style }) => style)
      this.#asset(routes, '/dark.css', 'text/css', ({ dark }) => dark)
      // Not for HEAD: that would be a stream without an end that nobody reads.
      routes.get(`${dashboardPath}/events`, { compress: false, exposeHeadRoute: false }, (_request, reply) => {
        reply.hijack()
        this.#sampler.add(reply.raw, headers)
      })
      if (this.#faults !== undefined) addFaultRoutes(routes, `${dashboardPath}/faults`, this.#faults, this.#token)
    })
  }

  #asset(app: FastifyInstance, path: string, type: string, textOf: (assets: Assets) => string): void {
    app.get(`${dashboardPath}${path}`, async (_request, reply): Promise<FastifyReply> => {
      const text = textOf(await assetsOfPage())
      return reply.type(`${type}; charset=utf-8`).header('cache-control', 'no-store').send(text)
    })
  }
}
