import { connect, createServer, type Socket } from 'node:net'

/** A TCP relay: it counts connections and can break them without the server's doing. */
export interface Relay {
  readonly address: string
  /** Connections that are open. */
  readonly open: number
  /** Connections in all. */
  readonly connections: number
  /** Breaks every connection. */
  cut(): void
  /** Lets nothing through any more on the connections that are open, as a lost network does. */
  stall(): void
  stop(): Promise<void>
}

/** Starts a relay to a loopback port; without one it accepts connections and never answers, as a black hole does. */
export async function startRelay(target?: number): Promise<Relay> {
  const sockets = new Set<Socket>()
  let connections = 0
  let open = 0
  const track = (socket: Socket): Socket => {
    sockets.add(socket)
    socket.on('error', () => undefined)
    socket.on('close', () => sockets.delete(socket))
    return socket
  }
  const server = createServer((incoming) => {
    connections++
    open++
    track(incoming).on('close', () => open--)
    if (target === undefined) return
    const outgoing = track(connect(target, '127.0.0.1'))
    incoming.pipe(outgoing).pipe(incoming)
    incoming.on('close', () => outgoing.destroy())
    outgoing.on('close', () => incoming.destroy())
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  const port = typeof address === 'object' && address !== null ? address.port : 0
  const cut = (): void => {
    for (const socket of sockets) socket.destroy()
  }
  return {
    address: `127.0.0.1:${port}`,
    get open() {
      return open
    },
    get connections() {
      return connections
    },
    cut,
    stall: () => {
      for (const socket of sockets) {
        socket.unpipe()
        socket.pause()
      }
    },
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        cut()
      }),
  }
}
