import type { ServerResponse } from 'node:http'

/** Whoever reads so slowly is cut off: the page comes back by itself. */
const maxUnreadBytes = 4_000_000

/** Those who look: each has a stream of server-sent events. */
export class EventStream {
  readonly #viewers = new Set<ServerResponse>()
  readonly #onChange: (viewers: number) => void
  #closed = false

  /** @param onChange - told how many there are. */
  constructor(onChange: (viewers: number) => void) {
    this.#onChange = onChange
  }

  get viewers(): number {
    return this.#viewers.size
  }

  /** Answers with a stream that lasts until the other side goes, or `close`. */
  add(response: ServerResponse, headers: Readonly<Record<string, string>>): void {
    response.writeHead(200, { ...headers, 'content-type': 'text/event-stream', 'cache-control': 'no-store' })
    // Who lost it comes again after a second.
    response.write('retry: 1000\n\n')
    if (this.#closed) return void response.end()
    this.#viewers.add(response)
    response.once('close', () => {
      this.#viewers.delete(response)
      this.#onChange(this.#viewers.size)
    })
    this.#onChange(this.#viewers.size)
  }

  send(event: string, data: unknown, to: Iterable<ServerResponse> = this.#viewers): void {
    const text = `event: ${event}\ndata: ${JSON.stringify(data)}\n\n`
    for (const viewer of to) {
      if (viewer.writableEnded) continue
      if (viewer.writableLength > maxUnreadBytes) viewer.destroy()
      else viewer.write(text)
    }
  }

  /** Ends all of them, and whoever comes from now on; they may take long to read what was sent. */
  close(): void {
    this.#closed = true
    for (const viewer of this.#viewers) viewer.end()
    this.#viewers.clear()
  }
}
