import { checkFunction, checkOptionalFunction, checkOptions, failOption, valueOr } from '../../core/options.js'
import { orAbort } from '../../internal/abort.js'
import { resolveHeaders } from './request-headers.js'

/** Where `tokenFetch` gets its tokens: a `TokenCache`, what its `forKey` gives, or anything of that shape. */
export interface HttpKeyedTokenSource<K> {
  /** The token to use now. */
  get(key: K, options?: { signal?: AbortSignal | undefined }): string | PromiseLike<string>
  /** Learns that a server refused a token. */
  invalidate(token: string): void | PromiseLike<void>
}

/** A function that is called as `fetch` is. */
export type FetchFunction = (input: string | URL | Request, init?: RequestInit) => Promise<Response>

/** Options of `tokenFetch`. */
export interface TokenFetchOptions<K> {
  /** What makes the requests. The default is the global `fetch`, as it is when a request is made. */
  fetch?: FetchFunction | undefined
  /** Whose token it is that requests carry. */
  key?: K | undefined
  /**
   * The header that carries the token. With any other than `authorization` redirects aren't followed unless the caller says so, because
   * `fetch` would take the token along to wherever they lead; the caller gets the redirect instead.
   * @defaultValue 'authorization'
   */
  header?: string | undefined
  /**
   * What stands before the token, a space between; nothing if it is empty.
   * @defaultValue 'Bearer'
   */
  scheme?: string | undefined
  /** The origins that get the token; requests to others go out as they are. The default is every origin that is asked. */
  origins?: readonly string[] | undefined
  /** Whether a response says that the token isn't good any more. The default is a status of 401. */
  shouldRefresh?: ((response: Response) => boolean | PromiseLike<boolean>) | undefined
}

/** The defaults of {@link TokenFetchOptions}. */
export const tokenFetchDefaults = { header: 'authorization', scheme: 'Bearer' } as const

/** What `tokenFetch` takes beside its tokens: the key may be left out where the source needs none. */
export type TokenFetchSetting<K> = undefined extends K
  ? [options?: TokenFetchOptions<K>]
  : [options: TokenFetchOptions<K> & { key: K }]

/**
 * A `fetch` whose requests carry a token. One that a server refuses with 401 is invalidated, and the request goes out once more with a
 * new one, if its body can be sent again: a text, bytes, `URLSearchParams`, `Blob`, `FormData`, a `Request` that holds one, or none. A
 * stream can't, and its caller gets the 401; what it fetches next has a new token.
 *
 * A request that has the header already goes out as it is. The body of a `Request` is kept until the first answer, so that it can be sent
 * again. A token is never sent along with a redirect to another origin.
 *
 * @param tokens - where it gets them.
 * @param options - its {@link TokenFetchOptions}.
 * @returns what is called as `fetch` is. It rejects with what `fetch` or the token source failed with, or with the signal's reason. When
 * there is no new token after a 401, the 401 is the answer.
 * @throws OptionError when an option is wrong.
 *
 * @example
 * ```ts
 * import { TokenCache } from 'spillway'
 * import { tokenFetch } from 'spillway/http'
 *
 * declare const tokens: TokenCache
 *
 * const api = tokenFetch(tokens, { origins: ['https://api.example.com'] })
 * const orders = await api('https://api.example.com/orders')
 * ```
 */
export function tokenFetch<K = undefined>(
  tokens: HttpKeyedTokenSource<K>,
  ...[options]: TokenFetchSetting<K>
): FetchFunction {
  const requests = new TokenRequests(tokens, options)
  return (input, init) => requests.fetch(input, init)
}

/** One request that carries a token. */
interface TokenRequest {
  readonly input: string | URL | Request
  readonly init: RequestInit
  readonly headers: Headers
}

class TokenRequests<K> {
  readonly #tokens: HttpKeyedTokenSource<K>
  readonly #fetch: FetchFunction | undefined
  readonly #key: K
  readonly #header: string
  readonly #prefix: string
  readonly #origins: ReadonlySet<string> | undefined
  readonly #shouldRefresh: (response: Response) => boolean | PromiseLike<boolean>

  constructor(tokens: HttpKeyedTokenSource<K>, options: TokenFetchOptions<K> | undefined) {
    if (typeof tokens?.get !== 'function' || typeof tokens.invalidate !== 'function') {
      failOption('tokens', 'must have the methods get and invalidate', typeof tokens)
    }
    checkOptions('options', options)
    this.#tokens = tokens
    this.#key = options?.key as K
    this.#fetch = checkOptionalFunction('fetch', options?.fetch)
    this.#header = checkHeader(valueOr(options?.header, tokenFetchDefaults.header))
    this.#prefix = checkScheme(valueOr(options?.scheme, tokenFetchDefaults.scheme))
    this.#origins = resolveOrigins(options?.origins)
    this.#shouldRefresh = checkOptionalFunction('shouldRefresh', options?.shouldRefresh) ?? isUnauthorized
  }

  async fetch(input: string | URL | Request, init: RequestInit | undefined): Promise<Response> {
    const fetch = this.#fetch ?? checkFunction('fetch', globalThis.fetch)
    const given = isRequest(input) ? input : undefined
    const headers = new Headers(init?.headers ?? given?.headers)
    const origin = originOf(given?.url ?? String(input))
    const mayHaveToken = this.#origins === undefined || (origin !== undefined && this.#origins.has(origin))
    if (!mayHaveToken || headers.has(this.#header)) return fetch(input, init)
    const signal = (init?.signal === undefined ? given?.signal : init.signal) ?? undefined
    const request: TokenRequest = { input, init: this.#initOf(given, init), headers }

    const token = await this.#tokenFor(signal)
    const copy = new RequestCopy(given, init)
    try {
      const response = await this.#send(fetch, request, token)
      if (!(await this.#isRefused(response, origin))) return response
      const next = await this.#nextToken(token, copy.sendable, signal)
      if (next === undefined) return response
      drop(response.body)
      return await this.#send(fetch, { ...request, input: copy.take() ?? input }, next)
    } finally {
      copy.drop()
    }
  }

  /** What the caller asked for; where the token could leave with a redirect, with redirects left to the caller. */
  #initOf(given: Request | undefined, init: RequestInit | undefined): RequestInit {
    const redirect = init?.redirect ?? given?.redirect ?? 'follow'
    if (this.#header === 'authorization' || redirect !== 'follow') return init ?? {}
    return { ...init, redirect: 'manual' }
  }

  async #tokenFor(signal: AbortSignal | undefined): Promise<string> {
    signal?.throwIfAborted()
    const token: unknown = await orAbort(Promise.resolve(this.#tokens.get(this.#key, { signal })), signal)
    if (typeof token !== 'string' || token === '') failOption('tokens', 'must give a token', typeof token)
    // `fetch` would throw at others, with an error that quotes them.
    if (!sendableToken.test(token)) failOption('tokens', 'must give a token that a header can carry', typeof token)
    return token
  }

  #send(fetch: FetchFunction, { input, init, headers }: TokenRequest, token: string): Promise<Response> {
    const own = new Headers(headers)
    own.set(this.#header, this.#prefix + token)
    return fetch(input, { ...init, headers: own })
  }

  /** Whether the server that got the token refused it, and not one that a redirect led to. */
  async #isRefused(response: Response, origin: string | undefined): Promise<boolean> {
    if (response.redirected && originOf(response.url) !== origin) return false
    return this.#shouldRefresh(response)
  }

  /** Another token than the one that was refused; undefined where there is none: what the server said tells more than why. */
  async #nextToken(refused: string, sendable: boolean, signal: AbortSignal | undefined): Promise<string | undefined> {
    try {
      await orAbort(Promise.resolve(this.#tokens.invalidate(refused)), signal)
      // Whoever can't use it needn't wait for it.
      if (!sendable) return undefined
      const next = await this.#tokenFor(signal)
      return next === refused ? undefined : next
    } catch {
      signal?.throwIfAborted()
      return undefined
    }
  }
}

/** What is needed to send a request again. */
class RequestCopy {
  readonly sendable: boolean
  /** A copy of a `Request` whose body the first sending uses up. */
  #input: Request | undefined

  constructor(given: Request | undefined, init: RequestInit | undefined) {
    const overridden = init?.body !== undefined && init.body !== null
    const held = !overridden && given !== undefined && given.body !== null
    if (held && !given.bodyUsed) this.#input = given.clone()
    this.sendable = held ? this.#input !== undefined : isSendableAgain(init?.body)
  }

  /** Hands it out; whoever gets it sends it. */
  take(): Request | undefined {
    const input = this.#input
    this.#input = undefined
    return input
  }

  /** It isn't needed: nothing is kept for it any more. */
  drop(): void {
    drop(this.take()?.body)
  }
}

function drop(body: ReadableStream<Uint8Array> | null | undefined): void {
  body?.cancel().catch(() => undefined)
}

/** `Headers` takes line breaks off the end. */
const sendableToken = /^[\t\x20-\x7e\x80-\xff]+[\r\n]*$/

/** By their names: `FormData` and the like may come from undici itself, or from a polyfill. */
const sendableTags: ReadonlySet<string> = new Set(['URLSearchParams', 'Blob', 'File', 'FormData', 'ArrayBuffer'])

function isSendableAgain(body: unknown): boolean {
  if (body === undefined || body === null || typeof body === 'string' || ArrayBuffer.isView(body)) return true
  return sendableTags.has(Object.prototype.toString.call(body).slice(8, -1))
}

function isUnauthorized(response: Response): boolean {
  return response.status === 401
}

function isRequest(input: string | URL | Request): input is Request {
  return typeof input === 'object' && input !== null && 'url' in input && 'headers' in input
}

/** Undefined where a page's own address would be needed to tell, and for schemes without origins, as `localhost:` seems to be one. */
function originOf(url: string): string | undefined {
  try {
    const { origin } = new URL(url)
    return origin === 'null' ? undefined : origin
  } catch {
    return undefined
  }
}

function checkHeader(header: string): string {
  if (typeof header !== 'string' || header === '') failOption('header', 'must be the name of a header', header)
  const [name] = resolveHeaders('header', { [header]: '' }).keys()
  return name as string
}

function checkScheme(scheme: string): string {
  if (typeof scheme !== 'string' || !/^[\x21-\x7e]*$/.test(scheme)) failOption('scheme', 'must be a word', scheme)
  return scheme === '' ? '' : `${scheme} `
}

function resolveOrigins(origins: readonly string[] | undefined): ReadonlySet<string> | undefined {
  if (origins === undefined) return undefined
  if (!Array.isArray(origins)) failOption('origins', 'must be an array', origins)
  return new Set(
    origins.map((url) => originOf(url) ?? failOption('origins', 'must be absolute URLs with a scheme', url)),
  )
}
