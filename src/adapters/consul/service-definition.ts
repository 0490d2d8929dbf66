import {
  checkBoolean,
  checkCount,
  checkDuration,
  checkFunction,
  checkOptions,
  failOption,
  valueOr,
} from '../../core/options.js'

/** What a service says of itself. */
export type HealthStatus = 'passing' | 'warning' | 'critical'

/** What a service says of itself, with a note that Consul shows. */
export interface HealthReport {
  /** How it is. */
  readonly status: HealthStatus
  /** Why. */
  readonly note?: string | undefined
}

/** The service reports itself: it is critical once it hasn't done so for `ttlMs`. */
export interface ConsulTtlCheck {
  /** How long a report holds, in milliseconds, at least 1000. Reports are made three times as often, with jitter. */
  ttlMs: number
  /**
   * Tells how the service is, before each report; `'passing'` without it. One that throws, rejects, gives something
   * else or takes longer than a third of `ttlMs` is critical.
   */
  health?: (() => HealthStatus | HealthReport | PromiseLike<HealthStatus | HealthReport>) | undefined
}

/** How often Consul's agent checks the service. */
export interface ConsulCheckTimes {
  /** How often, in milliseconds, at least 1000. */
  intervalMs: number
  /** How long a check may take, in milliseconds. Consul's default is 10 seconds. */
  timeoutMs?: number | undefined
}

/** The agent requests a URL: 2xx is passing, 429 is a warning, all else critical. */
export interface ConsulHttpCheck extends ConsulCheckTimes {
  /** The URL, as the agent reaches it. */
  http: string
}

/** The agent connects: a connection is passing. */
export interface ConsulTcpCheck extends ConsulCheckTimes {
  /** The address, `HOST:PORT`, as the agent reaches it. */
  tcp: string
}

/** The agent asks gRPC's standard health service: SERVING is passing. */
export interface ConsulGrpcCheck extends ConsulCheckTimes {
  /** The address, as the agent reaches it: `HOST:PORT`, or `HOST:PORT/SERVICE` for one service of it. */
  grpc: string
  /** Whether the agent speaks TLS. The default is false. */
  tls?: boolean | undefined
}

/** How Consul knows whether a service is well. */
export type ConsulCheck = ConsulTtlCheck | ConsulHttpCheck | ConsulTcpCheck | ConsulGrpcCheck

/** What a registration says of a service. */
export interface ConsulServiceOptions {
  /** The service's name in Consul. */
  service: string
  /** The instance's id, unique at its agent. The default is `SERVICE-HOST-PORT`. */
  id?: string | undefined
  /** Where it is reached. */
  host: string
  /** On which port, 1 to 65,535. */
  port: number
  /** Its tags. */
  tags?: readonly string[] | undefined
  /** Its metadata. */
  meta?: Readonly<Record<string, string>> | undefined
  /** Its share of the load while it passes, a whole number of 1 or more, as `Weights.Passing`. The default is 1. */
  weight?: number | undefined
  /** Its share while a check of it warns, a whole number of 0 or more, as `Weights.Warning`. The default is 1. */
  warningWeight?: number | undefined
  /** How Consul knows whether it is well. Without one, it is taken to be. */
  check?: ConsulCheck | undefined
  /**
   * After how long in a critical state Consul takes it out by itself, in milliseconds, at least 60,000, with up to half
   * a minute more. Needs a `check`. By default it never does.
   */
  deregisterCriticalAfterMs?: number | undefined
}

/** A service, checked. */
export interface ServiceDefinition {
  readonly id: string
  /** The id of its check, if it has one. */
  readonly checkId: string
  readonly ttl: { readonly ttlMs: number; readonly health: NonNullable<ConsulTtlCheck['health']> } | undefined
  /** What the agent takes, for a service that is in this state. */
  body(status: HealthStatus): object
}

/**
 * Checks what a registration says of a service.
 *
 * @throws OptionError when it is wrong.
 */
export function defineService(options: ConsulServiceOptions): ServiceDefinition {
  const service = checkText('service', options.service)
  const host = checkText('host', options.host)
  const port = checkCount('port', options.port, 1, 65_535)
  const id = checkText('id', valueOr(options.id, `${service}-${host}-${port}`))
  const check = options.check === undefined ? undefined : defineCheck(options.check)
  // Of two kinds under one id, the agent would go on with the first beside the second.
  const checkId = `service:${id}:${check?.kind}`
  const after = options.deregisterCriticalAfterMs
  if (after !== undefined) {
    checkDuration('deregisterCriticalAfterMs', after, 60_000)
    if (check === undefined) failOption('deregisterCriticalAfterMs', 'needs a check', after)
  }
  const definition = {
    ID: id,
    Name: service,
    Address: host,
    Port: port,
    Tags: checkTags(options.tags),
    Meta: checkMeta(options.meta),
    Weights: {
      Passing: checkCount('weight', valueOr(options.weight, 1)),
      Warning: checkCount('warningWeight', valueOr(options.warningWeight, 1), 0),
    },
  }
  const common = {
    CheckID: checkId,
    Name: `${service} at ${host}:${port}`,
    ...(after === undefined ? undefined : { DeregisterCriticalServiceAfter: milliseconds(after) }),
  }
  return {
    id,
    checkId,
    ttl: check?.ttl,
    body: (status) =>
      check === undefined
        ? definition
        : {
            ...definition,
            Check: { ...common, ...check.fields, ...(check.ttl === undefined ? undefined : { Status: status }) },
          },
  }
}

function defineCheck(check: ConsulCheck): { kind: string; fields: object; ttl: ServiceDefinition['ttl'] } {
  checkOptions('check', check)
  const given: Partial<Record<string, unknown>> = { ...check }
  const kinds = ['ttlMs', 'http', 'tcp', 'grpc'].filter((kind) => given[kind] !== undefined)
  if (kinds.length !== 1) failOption('check', 'must have one of ttlMs, http, tcp and grpc', check)
  if ('ttlMs' in check && check.ttlMs !== undefined) {
    const ttlMs = checkDuration('check.ttlMs', check.ttlMs, 1000)
    const health = checkFunction(
      'check.health',
      valueOr(check.health, (): HealthStatus => 'passing'),
    )
    return { kind: 'ttl', fields: { TTL: milliseconds(ttlMs) }, ttl: { ttlMs, health } }
  }
  const polled = check as ConsulHttpCheck | ConsulTcpCheck | ConsulGrpcCheck
  const times = {
    Interval: milliseconds(checkDuration('check.intervalMs', polled.intervalMs, 1000)),
    ...(polled.timeoutMs === undefined
      ? undefined
      : { Timeout: milliseconds(checkDuration('check.timeoutMs', polled.timeoutMs, 1)) }),
  }
  if ('http' in polled && polled.http !== undefined) {
    if (!/^https?:\/\/./.test(checkText('check.http', polled.http)))
      failOption('check.http', 'must be a URL', polled.http)
    return { kind: 'http', fields: { HTTP: polled.http, ...times }, ttl: undefined }
  }
  if ('tcp' in polled && polled.tcp !== undefined) {
    return { kind: 'tcp', fields: { TCP: checkText('check.tcp', polled.tcp), ...times }, ttl: undefined }
  }
  const { grpc, tls } = polled as ConsulGrpcCheck
  const fields = { GRPC: checkText('check.grpc', grpc), GRPCUseTLS: checkBoolean('check.tls', valueOr(tls, false)) }
  return { kind: 'grpc', fields: { ...fields, ...times }, ttl: undefined }
}

/** A duration of Go's. */
function milliseconds(ms: number): string {
  return `${Math.ceil(ms)}ms`
}

function checkTags(tags: readonly string[] | undefined): readonly string[] {
  if (tags === undefined) return []
  if (!Array.isArray(tags)) failOption('tags', 'must be an array of strings', tags)
  return tags.map((tag: string) => checkText('tags', tag))
}

function checkMeta(meta: Readonly<Record<string, string>> | undefined): Readonly<Record<string, string>> {
  if (meta === undefined) return {}
  checkOptions('meta', meta)
  for (const [key, value] of Object.entries(meta)) {
    if (typeof value !== 'string') failOption(`meta.${key}`, 'must be a string', value)
  }
  return { ...meta }
}

function checkText(field: string, value: string): string {
  if (typeof value !== 'string' || value === '') failOption(field, 'must be a string that is not empty', value)
  return value
}
