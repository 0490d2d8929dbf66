import { connect, createServer, type Server, type Socket } from 'node:net'

/** A way to a server on which its answers can be held up for a while, in order. */
export class HeldLine {
  readonly #server: Server
  readonly #pairs = new Set<readonly [Socket, Socket]>()
  #held: (() => void)[] | undefined
  #asked = 0
  #onAsked: () => void = () => undefined

  private constructor(server: Server) {
    this.#server = server
  }

  static async to(targetPort: number): Promise<HeldLine> {
    const server = createServer()
    const line = new HeldLine(server)
    server.on('connection', (client) => line.#join(client, connect(targetPort, '127.0.0.1')))
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(0, '127.0.0.1', resolve)
    })
    return line
  }

  get port(): number {
    const address = this.#server.address()
    return typeof address === 'object' && address !== null ? address.port : 0
  }

  /** Holds up every answer from now on. */
  hold(): void {
    this.#held ??= []
    this.#asked = 0
  }

  /** Resolves once the server was asked for something since `hold`, and has answered. */
  async answered(): Promise<void> {
    while (this.#asked === 0) await new Promise<void>((resolve) => (this.#onAsked = resolve))
  }

  /** Lets what was held up go, and what comes after. */
  release(): void {
    const held = this.#held ?? []
    this.#held = undefined
    for (const send of held) send()
  }

  stop(): Promise<void> {
    for (const [client, server] of this.#pairs) {
      client.destroy()
      server.destroy()
    }
    return new Promise((resolve) => this.#server.close(() => resolve()))
  }

  #join(client: Socket, server: Socket): void {
    const pair = [client, server] as const
    this.#pairs.add(pair)
    client.on('data', (chunk) => server.write(chunk))
    server.on('data', (chunk) => {
      if (this.#held === undefined) return void client.write(chunk)
      this.#held.push(() => client.write(chunk))
      this.#asked++
      this.#onAsked()
    })
    for (const [from, to] of [pair, [server, client] as const]) {
      from.on('error', () => undefined)
      from.on('close', () => {
        to.destroy()
        this.#pairs.delete(pair)
      })
    }
  }
}
