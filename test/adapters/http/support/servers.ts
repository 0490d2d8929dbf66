import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { createSecureServer, type Http2ServerRequest, type Http2ServerResponse } from 'node:http2'
import { createServer as createHttpsServer } from 'node:https'
import { type AddressInfo, createServer as createTcpServer, type Server, type Socket } from 'node:net'
import { afterEach } from 'vitest'
import { selfSigned } from './certificate.js'

/** What a test sees of a server. */
export interface TestServer {
  readonly origin: string
  readonly port: number
  /** Sockets that are open now. */
  readonly sockets: ReadonlySet<Socket>
  /** How many sockets there were at the same time at the most. */
  readonly mostSockets: number
  /** How many sockets were accepted. */
  readonly accepted: number
  /** `METHOD /path` of every request, in order. */
  readonly requests: string[]
  close(): Promise<void>
}

const running = new Set<TestServer>()

afterEach(async () => {
  await Promise.all([...running].map((server) => server.close()))
})

/** An HTTP/1.1 server. A listener that fails since its client went away in the middle of a request fails no test. */
export function startHttp(
  listener: (request: IncomingMessage, response: ServerResponse) => unknown,
): Promise<TestServer> {
  const requests: string[] = []
  const server = createServer(async (request, response) => {
    requests.push(`${request.method} ${request.url}`)
    try {
      await listener(request, response)
    } catch (error) {
      if (!request.destroyed || request.complete) throw error
    }
  })
  return started(server, 'http', requests)
}

let certificate: ReturnType<typeof selfSigned> | undefined

/** The certificate of the TLS servers here, to be trusted by clients. */
export function trusted(): { key: string; cert: string } {
  certificate ??= selfSigned()
  return certificate
}

/** A TLS server that speaks HTTP/2 and HTTP/1.1, or only the latter. */
export function startHttps(
  listener: (request: Http2ServerRequest, response: Http2ServerResponse) => void,
  options: { h2?: boolean } = {},
): Promise<TestServer> {
  const requests: string[] = []
  const count = (request: Http2ServerRequest, response: Http2ServerResponse): void => {
    requests.push(`${request.method} ${request.url}`)
    listener(request, response)
  }
  const server =
    options.h2 === false
      ? createHttpsServer(trusted(), count as never)
      : createSecureServer({ ...trusted(), allowHTTP1: true }, count)
  return started(server as unknown as Server, 'https', requests)
}

/** A server that says nothing, or what the test makes it say, on bare sockets. */
export function startTcp(listener: (socket: Socket) => void): Promise<TestServer> {
  return started(createTcpServer(listener), 'http', [])
}

async function started(server: Server, protocol: string, requests: string[]): Promise<TestServer> {
  const sockets = new Set<Socket>()
  let mostSockets = 0
  let accepted = 0
  server.on('connection', (socket) => {
    sockets.add(socket)
    accepted++
    mostSockets = Math.max(mostSockets, sockets.size)
    socket.on('error', () => undefined)
    socket.on('close', () => sockets.delete(socket))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const test: TestServer = {
    origin: `${protocol}://127.0.0.1:${port}`,
    port,
    sockets,
    get mostSockets() {
      return mostSockets
    },
    get accepted() {
      return accepted
    },
    requests,
    close: async () => {
      if (!running.delete(test)) return
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
  running.add(test)
  return test
}

/** Reads a request's body. */
export async function bodyOf(request: IncomingMessage | Http2ServerRequest): Promise<string> {
  let text = ''
  for await (const chunk of request) text += String(chunk)
  return text
}

/** Answers with JSON. */
export function answer(
  response: Pick<ServerResponse, 'writeHead' | 'end'>,
  status: number,
  value: unknown,
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, { 'content-type': 'application/json', ...headers })
  response.end(JSON.stringify(value))
}

/** Waits until something is so, but not for long. */
export async function until(condition: () => boolean, what: string): Promise<void> {
  const deadline = performance.now() + 5000
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`it never came to be that ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

/** A port that refuses connections. */
export async function refusedOrigin(): Promise<string> {
  const server = await startTcp(() => undefined)
  await server.close()
  return server.origin
}
