import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

/** A way to a server that can be cut at the worst moment. */
export interface CuttingProxy {
  readonly port: number
  /** How many answers it has swallowed. */
  readonly cuts: number
  /** Lets the next call of a script reach the server, swallows the answer, and cuts the connection. */
  cutNextAnswer(): void
  /** Keeps back what the server answers from now on, and says nothing. */
  hold(): void
  close(): Promise<void>
}

/** Starts one in front of a Redis. */
export async function startCuttingProxy(target: number): Promise<CuttingProxy> {
  const sockets = new Set<Socket>()
  let armed = false
  let held = false
  let cuts = 0
  const server = createServer((near) => {
    const far = connect(target, '127.0.0.1')
    let cutting = false
    for (const socket of [near, far]) {
      sockets.add(socket)
      socket.on('error', () => undefined)
      socket.once('close', () => {
        sockets.delete(socket)
        near.destroy()
        far.destroy()
      })
    }
    near.on('data', (chunk) => {
      if (armed && /EVAL/i.test(chunk.toString('latin1'))) {
        armed = false
        cutting = true
      }
      far.write(chunk)
    })
    far.on('data', (chunk) => {
      if (held) return
      if (!cutting) return void near.write(chunk)
      cuts++
      near.destroy()
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: (server.address() as AddressInfo).port,
    get cuts() {
      return cuts
    },
    cutNextAnswer: () => {
      armed = true
    },
    hold: () => {
      held = true
    },
    close: async () => {
      for (const socket of sockets) socket.destroy()
      server.close()
      await once(server, 'close')
    },
  }
}
