import Fastify, { type FastifyInstance } from 'fastify'
import { addApiKeyRoutes } from '../auth/api-key-routes.ts'
import { type AuthMode, guardHttp } from '../auth/http-guard.ts'
import type { TokenVerifier } from '../auth/token-verifier.ts'
import type { BillingServices } from '../billing/billing-services.ts'
import { addBillingRoutes } from '../billing/routes.ts'
import type { Acknowledgement, Counters, Log } from '../counter/counters.ts'
import type { CounterReads } from '../counter/reads.ts'
import { addCounterRoutes } from '../counter/routes.ts'
import type { Dashboard } from '../dashboard/dashboard.ts'
import { AnsweredKeys } from '../idempotency/idempotency.ts'
import type { KeyedWrites } from '../idempotency/keyed-writes.ts'
import type { Logging } from '../telemetry/logging.ts'
import type { Metrics } from '../telemetry/metrics.ts'
import { answerMetrics } from '../telemetry/metrics-endpoint.ts'
import { answerWithId, requestLogging } from '../telemetry/request-log.ts'
import { problemSchema } from './answer-schemas.ts'
import type { ApiSettings } from './api-options.ts'
import type { ApiParts } from './api-parts.ts'
import { compressAnswers } from './compression.ts'
import { answerErrors, answerFrameworkError, answerParserError } from './error-answers.ts'
import { Health, type HealthCheck } from './health.ts'
import { answerDocument, documentApi } from './open-api.ts'
import { limitRates, refusalLimit } from './rate-limit.ts'
import { limitServer, serverLimits } from './server-limits.ts'

export interface GatewayOptions {
  /** When an increment is answered whose request doesn't say. */
  acknowledgement: Acknowledgement
  /** Writes under an `Idempotency-Key`. */
  keyedWrites: KeyedWrites
  /** What it may cost, and what it knows of its callers. */
  settings: ApiSettings
  parts: ApiParts
  /** Parts whose answer it takes to be ready, beside the stores of the counters. */
  checks?: readonly HealthCheck[] | undefined
  /** What is told of the counter services, if the stores aren't here. */
  services?: (() => Record<string, unknown>) | undefined
  /** Billing services to pass requests on to; the writes of users are metered then. */
  billing?: Pick<BillingServices, 'pool' | 'metering' | 'stats'> | undefined
  /** Verifies the tokens of callers; without it, everybody is let in. */
  auth?: { readonly verifier: TokenVerifier; readonly mode: AuthMode; stats(): Record<string, unknown> } | undefined
  /** Where requests are logged. None are without it. */
  logging?: Logging | undefined
  /** What is answered at `/metrics`. */
  metrics?: Metrics | undefined
  /** A page on which one sees it work. */
  dashboard?: Pick<Dashboard, 'serve'> | undefined
}

/** The HTTP face of the counters and of billing, and what tells whether it is ready. */
export interface HttpFace {
  readonly app: FastifyInstance
  readonly health: Health
  /** The paths of all routes. */
  routes(): string[]
}

/** Makes the HTTP face of the counters and of billing. */
export async function createGateway(
  counters: Counters,
  reads: CounterReads,
  log: Log,
  options: GatewayOptions,
): Promise<HttpFace> {
  const { billing, auth, logging, metrics, acknowledgement, keyedWrites, settings, parts } = options
  const answered = new AnsweredKeys(parts.answers, log)
  const health = healthOf(counters, options)
  const app = Fastify({
    ...requestLogging(logging?.logger.child({ service: 'gateway' })),
    ...serverLimits(settings),
    frameworkErrors: answerFrameworkError,
    clientErrorHandler: answerParserError,
    // What comes on a connection that is still open is answered to the end.
    return503OnClosing: false,
    // Say what is wrong, don't mend it: "1" is not a number, and an unknown field may be a misspelt one.
    ajv: { customOptions: { coerceTypes: false, removeAdditional: false, verbose: true } },
  })
  app.removeContentTypeParser('text/plain')
  // The schemas of answers are for the document; what is answered is plain JSON.
  app.setSerializerCompiler(() => JSON.stringify)
  app.addSchema(problemSchema)
  const routes = answerErrors(app, log)

  // To Node and fastify, no time is as good as any.
  answerWithId(app, () => health.closing || settings.keepAliveTimeoutMs === 0)
  limitServer(app, settings)
  const { rateLimit } = settings
  const { keys, counts } = parts
  const limited = rateLimit !== undefined && counts !== undefined
  guardHttp(app, {
    ...{ verifier: auth?.verifier, keys, mode: auth?.mode ?? 'optional' },
    tooOften: limited ? refusalLimit(rateLimit, counts) : undefined,
  })
  metrics?.time('gateway', app)
  if (limited) await limitRates(app, rateLimit, counts)
  await documentApi(app, { auth: auth?.mode, keys: keys !== undefined })
  await compressAnswers(app)

  const metering = billing?.metering
  addCounterRoutes(app, { counters, reads, acknowledgement, metering, keys: answered, keyedWrites })
  if (billing !== undefined) addBillingRoutes(app, billing, answered)
  // Only who has a token may issue keys, and without an auth service nobody has any.
  if (auth !== undefined && keys?.canIssue === true) addApiKeyRoutes(app, keys)
  health.addRoutes(app)
  answerDocument(app)
  app.get('/stats', async () => {
    const services = options.services?.()
    const others = { billing: billing?.stats(), auth: auth?.stats(), log: logging?.stats() }
    const api = { answered: answered.stats(), keys: keys?.stats(), requests: counts?.stats() }
    return { ...counters.stats(), reads: reads.stats(), api, services, ...others }
  })
  if (metrics !== undefined) answerMetrics(app, metrics)
  options.dashboard?.serve(app)

  return { app, health, routes: () => routes.paths }
}

/** Reads go the way of every read, so that what they find is what every read would. */
function healthOf(counters: Counters, { checks = [], billing }: GatewayOptions): Health {
  const durable = async (): Promise<void> => {
    const { failing, reason } = counters.losses
    if (failing) throw new Error(reason)
    await counters.durableReads.add('readyz')
  }
  const own: HealthCheck[] = [
    { name: 'durable', check: durable },
    { name: 'live', check: () => counters.liveReads.add('readyz') },
  ]
  if (billing !== undefined)
    own.push({ name: 'billing', check: () => billing.pool.call('getBalance', { userId: 'readyz' }) })
  return new Health([...own, ...checks], () => {
    const { lost, notLive } = counters.losses
    return { lost, notLive }
  })
}
