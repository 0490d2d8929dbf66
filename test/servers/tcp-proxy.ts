import { connect, createServer, type Server, type Socket } from 'node:net'

/** Which answer is to be lost. */
export interface Cut {
  /** Whether what the client sent is what the answer must be to. */
  readonly request: (chunk: Buffer) => boolean
  /** Whether the server's answer is complete, given all that it sent since. */
  readonly answer: (answer: Buffer) => boolean
  /** The how manieth such request it is, counted from 1. The default is the first. */
  readonly nth?: number
}

/** PostgreSQL's ReadyForQuery at the end: the implicit transaction is committed, or rolled back. */
export const readyForQuery = (answer: Buffer): boolean =>
  answer.length >= 6 && answer.subarray(-6, -1).equals(Buffer.from([0x5a, 0, 0, 0, 5]))

/** A proxy on the loopback that can lose a server's answer: the work is done, and the client never hears of it. */
export class TcpProxy {
  readonly port: number
  /** How many answers were lost. */
  cuts = 0
  readonly #server: Server
  readonly #pairs = new Set<readonly [Socket, Socket]>()
  #pending: { cut: Cut; left: number } | undefined

  private constructor(server: Server, port: number) {
    this.#server = server
    this.port = port
  }

  static start(targetPort: number): Promise<TcpProxy> {
    return new Promise((resolve, reject) => {
      const server = createServer((client) => proxy?.accept(client, targetPort))
      let proxy: TcpProxy | undefined
      server.once('error', reject)
      server.listen(0, '127.0.0.1', () => {
        const address = server.address()
        proxy = new TcpProxy(server, typeof address === 'object' && address !== null ? address.port : 0)
        resolve(proxy)
      })
    })
  }

  /** From now on, lets the n-th such request through, keeps its answer, and cuts the connection. */
  cutOnce(cut: Cut): void {
    this.#pending = { cut, left: cut.nth ?? 1 }
  }

  /** Cuts every connection now. */
  cutAll(): void {
    for (const [client, server] of this.#pairs) {
      client.destroy()
      server.destroy()
    }
  }

  stop(): Promise<void> {
    this.cutAll()
    return new Promise((resolve) => this.#server.close(() => resolve()))
  }

  accept(client: Socket, targetPort: number): void {
    const server = connect(targetPort, '127.0.0.1')
    const pair = [client, server] as const
    this.#pairs.add(pair)
    let losing: Cut | undefined
    let answer = Buffer.alloc(0)
    client.on('data', (chunk) => {
      const pending = this.#pending
      if (pending?.cut.request(chunk) && --pending.left === 0) {
        losing = pending.cut
        this.#pending = undefined
      }
      server.write(chunk)
    })
    server.on('data', (chunk) => {
      if (losing === undefined) return void client.write(chunk)
      answer = Buffer.concat([answer, chunk])
      if (!losing.answer(answer)) return
      this.cuts++
      client.destroy()
      server.destroy()
    })
    for (const [from, to] of [pair, [server, client] as const]) {
      from.on('error', () => undefined)
      from.on('end', () => to.end())
      from.on('close', () => {
        to.destroy()
        this.#pairs.delete(pair)
      })
    }
  }
}
