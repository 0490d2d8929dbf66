import Fastify, { type FastifyError, type FastifyInstance } from 'fastify'
import type { Closable } from 'spillway/process'
import { type Log, text } from '../counter/counters.ts'
import { type ApiOptions, apiSettings } from '../http/api-options.ts'
import { arrivalLimits } from '../http/server-limits.ts'
import { closeAll, closeHttp, defaultHost, logToStderr, type Running } from '../running.ts'
import type { Logging } from '../telemetry/logging.ts'
import type { Metrics } from '../telemetry/metrics.ts'
import { answerWithId, requestLogging } from '../telemetry/request-log.ts'
import { type ClientSecrets, Clients } from './clients.ts'
import { OAuthError } from './oauth-error.ts'
import { SigningKeys } from './signing-keys.ts'
import { TokenIssuer } from './token-issuer.ts'

export const defaultAuthPort = 50_053
export const defaultTokenLifeSeconds = 300
export const defaultKeyLifeSeconds = 86_400

/** How long receivers may keep the keys: the next one is published for longer than that before it is used. */
const keysMaxAgeSeconds = 60
/** More than any request for a token needs. */
const maxBodyBytes = 16_384

export interface AuthServiceOptions {
  /** The clients' secrets. */
  secrets: ClientSecrets
  host?: string | undefined
  /** Where HTTP is listened for; 0 is any free port. */
  port?: number | undefined
  /** What tokens say who issued them. The default is where it listens. */
  issuer?: string | undefined
  tokenLifeSeconds?: number | undefined
  /** How long a key signs. */
  keyLifeSeconds?: number | undefined
  /** How long a request may take to arrive. */
  limits?: Pick<ApiOptions, 'headersTimeoutMs' | 'requestTimeoutMs'> | undefined
  log?: Log | undefined
  /** What is measured in this process. Nothing is without it. */
  metrics?: Metrics | undefined
  /** Where requests are logged, with an id each. None are without it. */
  logging?: Logging | undefined
}

export interface AuthService extends Running {
  readonly url: string
  readonly issuer: string
  readonly keys: SigningKeys
  stats(): { issued: number; refused: number }
}

/** Starts the auth service: a token endpoint, and the keys that its tokens are verified with. */
export async function startAuthService(options: AuthServiceOptions): Promise<AuthService> {
  const { host = defaultHost, port = defaultAuthPort, log = logToStderr } = options
  const { tokenLifeSeconds = defaultTokenLifeSeconds, keyLifeSeconds = defaultKeyLifeSeconds } = options
  const keys = await SigningKeys.make(tokenLifeSeconds * 1_000)
  const clients = new Clients(options.secrets)
  let name = options.issuer ?? ''
  const issuer = new TokenIssuer({ issuer: () => name, clients, keys, tokenLifeSeconds })
  const app = createAuthServer(issuer, keys, options)
  options.metrics?.time('auth', app)
  const url = await app.listen({ host, port })
  name ||= url
  const rotation = setInterval(() => rotateKeys(keys, log), keyLifeSeconds * 1_000)
  rotation.unref()
  const close = async ({ timeoutMs = 10_000 } = {}): Promise<void> => {
    clearInterval(rotation)
    await closeHttp(app, timeoutMs)
  }
  const parts: Closable[] = [{ name: 'auth service', close }]
  if (options.metrics !== undefined) {
    const tallies = { issued_tokens: () => issuer.stats().issued, refused_tokens: () => issuer.stats().refused }
    parts.push(options.metrics.add('auth', {}, tallies))
  }
  return { url, issuer: name, keys, parts, close: () => closeAll(parts), stats: () => issuer.stats() }
}

/** The HTTP face of the auth service. */
function createAuthServer(
  issuer: TokenIssuer,
  keys: SigningKeys,
  { log = logToStderr, logging, limits }: AuthServiceOptions,
): FastifyInstance {
  const logger = logging?.logger.child({ service: 'auth' })
  const app = Fastify({ ...requestLogging(logger), ...arrivalLimits(apiSettings(limits)), bodyLimit: maxBodyBytes })
  answerWithId(app)
  app.removeAllContentTypeParsers()
  const form = 'application/x-www-form-urlencoded'
  app.addContentTypeParser(form, { parseAs: 'string' }, (_request, body, done) => done(null, body))
  app.setErrorHandler<FastifyError | OAuthError>((error, _request, reply) => {
    reply.header('cache-control', 'no-store')
    if (error instanceof OAuthError) {
      if (error.httpStatus === 401) reply.header('www-authenticate', 'Basic realm="counter-billing", charset="UTF-8"')
      return reply.code(error.httpStatus).send(error.toJSON())
    }
    const status = error.statusCode ?? 500
    if (status >= 500) {
      log('error', `a request for a token failed: ${text(error)}`)
      return reply.code(500).send({ error: 'server_error', error_description: 'something went wrong here' })
    }
    const description = status === 415 ? `the body must be ${form}` : error.message
    return reply.code(400).send(new OAuthError('invalid_request', description).toJSON())
  })

  app.post('/oauth/token', async ({ body, headers }, reply) => {
    const token = await issuer.issue(typeof body === 'string' ? body : '', headers.authorization)
    return reply.header('cache-control', 'no-store').header('pragma', 'no-cache').send(token)
  })

  app.get('/.well-known/jwks.json', (_request, reply) =>
    reply.header('cache-control', `public, max-age=${keysMaxAgeSeconds}`).send(keys.publicKeys()),
  )

  app.get('/healthz', () => ({ status: 'ok' }))

  return app
}

function rotateKeys(keys: SigningKeys, log: Log): void {
  keys.rotate().catch((error: unknown) => log('error', `the key that signs stays the same: ${text(error)}`))
}
