import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

/** A way to a server that can be shut, or stand still, and be opened again. */
export interface Valve {
  readonly port: number
  /** Cuts what is connected, and lets nobody in. */
  shut(): void
  /** Lets in again. */
  open(): void
  /** What is connected now hears no more, and isn't told; new connections work. */
  freeze(): void
  /** What was frozen goes on. */
  thaw(): void
  close(): Promise<void>
}

/** Starts one in front of a server on the loopback. */
export async function startValve(target: number): Promise<Valve> {
  const pairs = new Set<readonly [near: Socket, far: Socket]>()
  let isOpen = true
  const server = createServer((near) => {
    if (!isOpen) return void near.destroy()
    const far = connect(target, '127.0.0.1')
    const pair = [near, far] as const
    pairs.add(pair)
    near.pipe(far)
    far.pipe(near)
    for (const socket of pair) {
      socket.on('error', () => undefined)
      socket.once('close', () => {
        pairs.delete(pair)
        near.destroy()
        far.destroy()
      })
    }
  })
  const cut = (): void => {
    for (const [near, far] of pairs) {
      near.destroy()
      far.destroy()
    }
  }
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: (server.address() as AddressInfo).port,
    shut: () => {
      isOpen = false
      cut()
    },
    open: () => {
      isOpen = true
    },
    freeze: () => {
      for (const [near, far] of pairs) far.unpipe(near).pause()
    },
    thaw: () => {
      for (const [near, far] of pairs) if (far.isPaused()) far.pipe(near)
    },
    close: async () => {
      cut()
      server.close()
      await once(server, 'close')
    },
  }
}
