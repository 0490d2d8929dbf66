import { connect, type Socket } from 'node:net'
import { onTestFinished } from 'vitest'

/** A connection on which a test says what it likes. */
export interface RawConnection {
  readonly socket: Socket
  /** All that has come so far. */
  readonly received: () => string
  /** Resolves once the other side has closed it. */
  readonly closed: Promise<string>
}

/** Connects to a server, and sends what may be no HTTP; the connection ends with the test. */
export function rawConnection(url: string, text = ''): RawConnection {
  const { hostname, port } = new URL(url)
  const socket = connect(Number(port), hostname)
  onTestFinished(() => void socket.destroy())
  let received = ''
  socket.setEncoding('utf8')
  socket.on('data', (chunk: string) => {
    received += chunk
  })
  // Whoever closes with unread data resets the connection: what came before that counts.
  socket.on('error', () => undefined)
  const closed = new Promise<string>((resolve) => socket.once('close', () => resolve(received)))
  socket.write(text)
  return { socket, received: () => received, closed }
}

/** The status and the body of the answer that a connection got. */
// biome-ignore lint/suspicious/noExplicitAny: each test knows the answer that it asks for
export function rawAnswer(received: string): { status: number; headers: string; body: any } {
  const [head = '', body = ''] = received.split('\r\n\r\n')
  return { status: Number(head.split(' ')[1]), headers: head, body: body === '' ? undefined : JSON.parse(body) }
}

/** The head of a request to increment, of which a test leaves out what it likes. */
export function incrementHead(length: number, more: readonly string[] = []): string {
  const lines = ['host: localhost', 'content-type: application/json', `content-length: ${length}`, ...more]
  return `POST /api/v1/counter/increment HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n`
}
