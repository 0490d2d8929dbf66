import { createServer, type IncomingMessage, request, type Server, type ServerResponse } from 'node:http'

/** What the proxy does to a request, or to the answer that Consul gave. */
export type Fault =
  /** Consul's answer, with another index, or none. */
  | { readonly index: (real: number, request: SeenRequest) => number | string | undefined }
  /** Consul's answer to the same without a wait. */
  | 'no wait'
  /** A status of its own, without asking Consul. */
  | { readonly status: number; readonly body?: string }
  /** It takes the request and says nothing. */
  | 'hang'
  /** It cuts the connection. */
  | 'cut'
  /** Consul does what it is asked to, and the connection is cut instead of its answer. */
  | 'lose answer'
  /** Consul does what it is asked to, and its answer comes later. */
  | { readonly delayMs: number }

/** One request that came. */
export interface SeenRequest {
  readonly at: number
  readonly method: string
  readonly path: string
  /** The index that it waits beyond; undefined where it waits for nothing. */
  readonly index: number | undefined
}

/** A proxy in front of a real Consul, that breaks what it is told to. */
export class FaultyProxy {
  readonly address: string
  /** All requests so far. */
  readonly requests: SeenRequest[] = []
  /** Which fault a request suffers, if any. */
  fault: (request: SeenRequest) => Fault | undefined = () => undefined
  readonly #server: Server
  readonly #target: number

  private constructor(server: Server, port: number, target: number) {
    this.#server = server
    this.#target = target
    this.address = `http://127.0.0.1:${port}`
  }

  static start(target: number): Promise<FaultyProxy> {
    return new Promise((resolve, reject) => {
      let proxy: FaultyProxy | undefined
      const server = createServer((incoming, outgoing) => proxy?.serve(incoming, outgoing))
      server.once('error', reject)
      server.listen(0, '127.0.0.1', () => {
        const address = server.address()
        proxy = new FaultyProxy(server, typeof address === 'object' && address !== null ? address.port : 0, target)
        resolve(proxy)
      })
    })
  }

  /** How many connections are open. */
  connections(): Promise<number> {
    return new Promise((resolve, reject) =>
      this.#server.getConnections((error, count) => (error === null ? resolve(count) : reject(error))),
    )
  }

  stop(): Promise<void> {
    return new Promise((resolve) => {
      this.#server.close(() => resolve())
      this.#server.closeAllConnections()
    })
  }

  serve(incoming: IncomingMessage, outgoing: ServerResponse): void {
    const url = new URL(incoming.url ?? '', 'http://consul')
    const index = url.searchParams.get('index')
    const seen: SeenRequest = {
      at: performance.now(),
      method: incoming.method ?? '',
      path: url.pathname,
      index: index === null ? undefined : Number(index),
    }
    this.requests.push(seen)
    const fault = this.fault(seen)
    if (fault === 'hang') return
    if (fault === 'cut') return void incoming.socket.destroy()
    if (fault === 'no wait') for (const parameter of ['index', 'wait']) url.searchParams.delete(parameter)
    if (typeof fault === 'object' && 'status' in fault) return void outgoing.writeHead(fault.status).end(fault.body)
    const onwards = request(
      {
        host: '127.0.0.1',
        port: this.#target,
        method: seen.method,
        path: `${url.pathname}${url.search}`,
        headers: incoming.headers,
      },
      (answer) => {
        const headers = { ...answer.headers }
        if (typeof fault === 'object' && 'index' in fault) {
          const changed = fault.index(Number(headers['x-consul-index']), seen)
          if (changed === undefined) delete headers['x-consul-index']
          else headers['x-consul-index'] = String(changed)
        }
        if (fault === 'lose answer') return void incoming.socket.destroy()
        const pass = (): void => {
          outgoing.writeHead(answer.statusCode ?? 502, headers)
          answer.pipe(outgoing)
        }
        if (typeof fault === 'object' && 'delayMs' in fault) setTimeout(pass, fault.delayMs)
        else pass()
      },
    )
    onwards.on('error', () => incoming.socket.destroy())
    outgoing.on('close', () => onwards.destroy())
    incoming.pipe(onwards)
  }
}
