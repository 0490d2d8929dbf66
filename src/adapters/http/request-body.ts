import { Readable } from 'node:stream'
import { failOption } from '../../core/options.js'
import type { HttpBody } from './http-options.js'

/** A request's body, ready to be sent as often as it can be. */
export class RequestBody {
  readonly #bytes: string | Uint8Array | undefined
  readonly #make: (() => Readable) | undefined
  readonly #stream: Readable | undefined
  /** What `content-type` is unless the caller says. */
  readonly contentType: string | undefined

  private constructor(
    source: { bytes?: string | Uint8Array | undefined; make?: () => Readable; stream?: Readable },
    contentType?: string,
  ) {
    this.#bytes = source.bytes
    this.#make = source.make
    this.#stream = source.stream
    this.contentType = contentType
    // Without it, a stream that breaks while nobody reads it ends the process.
    this.#stream?.on('error', ignore)
  }

  static of(body: HttpBody | undefined, json: unknown): RequestBody | Promise<RequestBody> {
    if (json !== undefined) {
      if (body !== undefined) failOption('json', 'must not be given together with body', json)
      return new RequestBody({ bytes: toJson(json) }, 'application/json')
    }
    if (body === undefined || typeof body === 'string') {
      return new RequestBody({ bytes: body }, body === undefined ? undefined : 'text/plain;charset=UTF-8')
    }
    // A copy: the caller may write over its own before the last attempt.
    if (body instanceof Uint8Array || body instanceof ArrayBuffer) {
      return new RequestBody({ bytes: new Uint8Array(body instanceof ArrayBuffer ? body.slice(0) : body) })
    }
    if (body instanceof URLSearchParams) {
      return new RequestBody({ bytes: body.toString() }, 'application/x-www-form-urlencoded;charset=UTF-8')
    }
    if (body instanceof FormData) return fromForm(body)
    if (typeof body === 'function') return new RequestBody({ make: () => toStream(body()) })
    if (isIterable(body)) return new RequestBody({ stream: toStream(body) })
    return failOption(
      'body',
      'must be a string, bytes, URLSearchParams, FormData, a stream or a function that makes one',
      body,
    )
  }

  static ofForm(bytes: Uint8Array, contentType: string): RequestBody {
    return new RequestBody({ bytes }, contentType)
  }

  /** Whether it can be sent once more after some of it was. */
  get replayable(): boolean {
    return this.#stream === undefined
  }

  /** What to send now, and what to destroy when it isn't wanted any more. */
  next(): { body: string | Uint8Array | Readable | null; stream: Readable | undefined } {
    if (this.#bytes !== undefined) return { body: this.#bytes, stream: undefined }
    const stream = this.#stream ?? this.#make?.()
    if (stream !== this.#stream) stream?.on('error', ignore)
    return { body: stream ?? null, stream }
  }

  /** Ends what the caller gave and nobody is going to read. */
  dispose(): void {
    this.#stream?.destroy()
  }
}

const ignore = (): void => {}

/** Ends the body of a request that was refused; a stream that breaks while nobody reads it ends the process. */
export function disposeUnsent(body: unknown): void {
  if (body instanceof Readable) body.on('error', ignore).destroy()
}

function toJson(value: unknown): string {
  let text: string | undefined
  try {
    text = JSON.stringify(value)
  } catch (error) {
    failOption('json', `must be something that JSON can express (${(error as Error).message})`, '…')
  }
  if (text === undefined) failOption('json', 'must be something that JSON can express', value)
  return text
}

/** Held in memory, so that it has a length and can be sent again. */
async function fromForm(form: FormData): Promise<RequestBody> {
  const response = new Response(form)
  return RequestBody.ofForm(
    new Uint8Array(await response.arrayBuffer()),
    response.headers.get('content-type') ?? 'multipart/form-data',
  )
}

function toStream(source: Readable | AsyncIterable<string | Uint8Array>): Readable {
  if (source instanceof Readable) return source
  if (isIterable(source)) return Readable.from(source, { objectMode: false })
  return failOption('body', 'must make a stream', source)
}

function isIterable(value: unknown): value is AsyncIterable<string | Uint8Array> {
  return typeof (value as { [Symbol.asyncIterator]?: unknown } | null)?.[Symbol.asyncIterator] === 'function'
}
