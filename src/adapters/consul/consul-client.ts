import { type IncomingMessage, type RequestOptions, request as requestHttp } from 'node:http'
import { request as requestHttps } from 'node:https'
import type { Socket } from 'node:net'
import { type ConnectionOptions, createSecureContext, type SecureContext } from 'node:tls'
import type { Clock } from '../../core/clock.js'
import { OptionError } from '../../core/errors.js'
import { checkDuration, checkOptions, failOption, valueOr } from '../../core/options.js'
import { onAbort } from '../../internal/abort.js'
import { answerError, type FailedRequest, transportError } from './consul-error.js'

/** What of Node's TLS options a connection to Consul takes. */
export type ConsulTlsOptions = Pick<
  ConnectionOptions,
  'ca' | 'cert' | 'key' | 'passphrase' | 'servername' | 'rejectUnauthorized'
>

/** How to reach an agent of Consul. */
export interface ConsulConnectionOptions {
  /**
   * The agent's HTTP address, with or without `http://` or `https://`, as `CONSUL_HTTP_ADDR` has it. The environment is
   * not read: pass `process.env.CONSUL_HTTP_ADDR` where it should count.
   *
   * @defaultValue 'http://127.0.0.1:8500'
   */
  address?: string | undefined
  /** The ACL token, sent as `X-Consul-Token`. It is in no error, event, stat or `inspect` output. */
  token?: string | undefined
  /**
   * What an `https` address takes beside Node's own authorities: a CA, a client certificate, another server name. It is
   * read once, when the owner is made; what can't be read is an `OptionError`.
   */
  tls?: ConsulTlsOptions | undefined
  /**
   * How long Consul may take to answer, in milliseconds, at least 1; a blocking query may take its wait and a sixteenth
   * more on top.
   *
   * @defaultValue 5000
   */
  timeoutMs?: number | undefined
}

/** One request to Consul. */
export interface ConsulCall {
  readonly method: 'GET' | 'PUT'
  readonly path: string
  readonly query?: URLSearchParams
  /** What goes into the body, as JSON. */
  readonly body?: unknown
  /** How long the answer may take, where that isn't `timeoutMs` of the connection. */
  readonly timeoutMs?: number
  readonly signal: AbortSignal
}

/** An answer with status 200. */
export interface ConsulAnswer {
  readonly headers: IncomingMessage['headers']
  readonly text: string
}

/**
 * Speaks HTTP with one agent. Each request has a connection of its own: one that is kept may be closed by the other
 * side in the very moment of its next use, and at a request a second a connection costs nothing. None keeps the process
 * alive; whoever waits for one sees to that.
 */
export class ConsulClient {
  /** The agent's address without a scheme, for messages. */
  readonly host: string
  readonly timeoutMs: number
  readonly #name: string
  readonly #clock: Clock
  readonly #url: URL
  readonly #token: string | undefined
  readonly #tls: (ConsulTlsOptions & { readonly secureContext: SecureContext }) | undefined

  /**
   * @param name - who makes the requests, for messages.
   * @throws OptionError when an option is wrong.
   */
  constructor(
    name: string,
    clock: Clock,
    options: ConsulConnectionOptions,
    defaults: { readonly address: string; readonly timeoutMs: number },
  ) {
    this.#name = name
    this.#clock = clock
    this.#url = checkAddress(valueOr(options.address, defaults.address))
    this.host = this.#url.host
    this.timeoutMs = checkDuration('timeoutMs', valueOr(options.timeoutMs, defaults.timeoutMs), 1)
    this.#token = checkToken(options.token)
    checkOptions('tls', options.tls)
    if (this.#url.protocol === 'https:') this.#tls = { ...options.tls, secureContext: checkTls(options.tls) }
  }

  /** A request, as its errors tell of it. */
  describe(method: ConsulCall['method'], path: string): FailedRequest {
    return { name: this.#name, host: this.host, method, path, token: this.#token }
  }

  /** Rejects with a `ConsulError`, or with the signal's reason; nothing of the request is left then. */
  request(call: ConsulCall): Promise<ConsulAnswer> {
    const { method, path, signal } = call
    const what = this.describe(method, path)
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason)
      let sent = false
      const body = call.body === undefined ? undefined : JSON.stringify(call.body)
      const request = this.#open(call, body)
      const settle = (act: () => void): void => {
        stopListening()
        cancelTimer()
        act()
      }
      const fail = (error: unknown): void => settle(() => reject(transportError(error, { ...what, sent })))
      const stopListening = onAbort(signal, () => {
        settle(() => reject(signal.reason))
        request.destroy()
      })
      const limitMs = call.timeoutMs ?? this.timeoutMs
      const expire = (): void => {
        settle(() => reject(transportError(undefined, { ...what, sent, limitMs })))
        request.destroy()
      }
      const cancelTimer = this.#clock.setTimer(expire, limitMs, { keepAlive: false })
      request.on('socket', (socket: Socket) => {
        socket.unref()
        // Where a name has several addresses, each attempt has a handle of its own, which isn't unref'd as the first
        // one was.
        socket.once('connect', () => socket.unref())
        const connected = this.#url.protocol === 'https:' ? 'secureConnect' : 'connect'
        socket.once(connected, () => {
          sent = true
        })
      })
      // It stays on: destroying a request that was settled makes it fail once more.
      request.on('error', fail)
      request.on('response', (response) => {
        const chunks: Buffer[] = []
        response.on('data', (chunk: Buffer) => chunks.push(chunk))
        response.on('error', fail)
        response.on('end', () => {
          const text = Buffer.concat(chunks).toString('utf8')
          const { statusCode: status = 0, headers } = response
          settle(() => (status === 200 ? resolve({ headers, text }) : reject(answerError(status, text, what))))
        })
      })
      request.end(body)
    })
  }

  #open(call: ConsulCall, body: string | undefined): ReturnType<typeof requestHttp> {
    const { hostname, port, pathname } = this.#url
    const query = call.query === undefined ? '' : `?${call.query}`
    const options: RequestOptions = {
      // An IPv6 address has brackets in a URL and none elsewhere.
      host: hostname.replace(/^\[(.*)\]$/, '$1'),
      port: port === '' ? undefined : Number(port),
      method: call.method,
      path: `${pathname.replace(/\/$/, '')}${call.path}${query}`,
      headers: {
        accept: 'application/json',
        ...(this.#token === undefined ? undefined : { 'x-consul-token': this.#token }),
        ...(body === undefined
          ? undefined
          : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }),
      },
      agent: false,
    }
    return this.#tls === undefined ? requestHttp(options) : requestHttps({ ...this.#tls, ...options })
  }
}

function checkAddress(address: string): URL {
  const rule = 'must be an address such as http://127.0.0.1:8500'
  if (typeof address !== 'string') failOption('address', rule, address)
  let url: URL
  try {
    url = new URL(/^[a-z][a-z+.-]*:\/\//i.test(address) ? address : `http://${address}`)
  } catch {
    failOption('address', rule, address)
  }
  // Without the value: it would tell the password.
  if (url.username !== '' || url.password !== '') {
    throw new OptionError('address', 'address must not carry a user or password; Consul takes a token')
  }
  const plain = (url.protocol === 'http:' || url.protocol === 'https:') && url.search === '' && url.hash === ''
  if (!plain) failOption('address', rule, address)
  return url
}

/**
 * Certificates and keys that can't be read fail here, rather than with each request; the message tells none of them.
 */
function checkTls(tls: ConsulTlsOptions | undefined): SecureContext {
  try {
    return createSecureContext(tls)
  } catch (error) {
    throw new OptionError('tls', `tls has something that TLS doesn't take: ${(error as Error).message}`)
  }
}

/** A token that no header can carry would fail every request, with a message that shows it. */
function checkToken(token: string | undefined): string | undefined {
  if (token === undefined) return undefined
  if (typeof token === 'string' && /^[\x21-\x7e]+$/.test(token)) return token
  throw new OptionError('token', 'token must be a string of printable ASCII characters without spaces')
}
