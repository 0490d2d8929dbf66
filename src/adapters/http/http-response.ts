import type { Readable } from 'node:stream'

/** The headers of a response, their names in lower case; a list where one came several times. */
export type HttpResponseHeaders = Readonly<Record<string, string | string[] | undefined>>

/** What came before the body. */
export interface HttpHead {
  /** The status, for instance 200. */
  readonly status: number
  /** The headers. */
  readonly headers: HttpResponseHeaders
  /** Where the request went, without the query. */
  readonly url: string
}

/** An answer, all of it. */
export class HttpResponse implements HttpHead {
  /** The status, for instance 200. */
  readonly status: number
  /** The headers. */
  readonly headers: HttpResponseHeaders
  /** Where the request went, without the query. */
  readonly url: string
  /** The body's bytes, as they came: whoever asks for compression decompresses. */
  readonly body: Uint8Array

  constructor(head: HttpHead, body: Uint8Array) {
    this.status = head.status
    this.headers = head.headers
    this.url = head.url
    this.body = body
  }

  /** Whether the status is one of success: 200 to 299. */
  get ok(): boolean {
    return this.status >= 200 && this.status < 300
  }

  /** The body as text in UTF-8. */
  text(): string {
    return new TextDecoder().decode(this.body)
  }

  /**
   * The body as JSON.
   *
   * @throws SyntaxError where it is none.
   */
  json<T = unknown>(): T {
    return JSON.parse(this.text()) as T
  }
}

/**
 * An answer whose body is still on its way. It holds a connection until the body has ended or is destroyed: read it, or
 * call `discard`.
 */
export class HttpStreamResponse implements HttpHead {
  /** The status, for instance 200. */
  readonly status: number
  /** The headers. */
  readonly headers: HttpResponseHeaders
  /** Where the request went, without the query. */
  readonly url: string
  /** The body. Its errors reach whoever reads it; no listener is needed to survive them. */
  readonly body: Readable

  constructor(head: HttpHead, body: Readable) {
    this.status = head.status
    this.headers = head.headers
    this.url = head.url
    this.body = body
  }

  /** Whether the status is one of success: 200 to 299. */
  get ok(): boolean {
    return this.status >= 200 && this.status < 300
  }

  /** Gives the body up: up to 64 KiB more are read, so that the connection can be kept; beyond that it is closed. */
  discard(): void {
    let left = maxDiscardedBytes
    this.body
      .on('data', (chunk: Uint8Array) => {
        left -= chunk.length
        if (left < 0) this.body.destroy()
      })
      .resume()
  }
}

/** Reading this much more is cheaper than a new connection. */
const maxDiscardedBytes = 65_536
