import { fork } from 'node:child_process'
import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'

/** An echo that is so far away. */
async function echoAway(roundTripMs: number): Promise<() => Promise<Socket>> {
  const echo = createServer((socket) => socket.on('error', () => undefined).pipe(socket)).listen(0, '127.0.0.1')
  await once(echo, 'listening')
  const child = fork('bench/load/quota/distance.ts', [], {
    execArgv: ['--import', 'tsx'],
    env: {
      ...process.env,
      TSX_TSCONFIG_PATH: 'tsconfig.check.json',
      ROUND_TRIP_MS: String(roundTripMs),
      DATABASE_URL: `postgres://someone:secret@127.0.0.1:${(echo.address() as AddressInfo).port}/db`,
    },
  })
  onTestFinished(async () => {
    child.kill()
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
    echo.close()
  })
  const [{ url }] = (await once(child, 'message')) as [{ url: string }]
  return async () => {
    const socket = connect(Number(new URL(url).port), '127.0.0.1')
    await once(socket, 'connect')
    return socket
  }
}

async function roundTripOf(socket: Socket): Promise<number> {
  const startMs = performance.now()
  socket.write('x')
  await once(socket, 'data')
  return performance.now() - startMs
}

describe('the way to a database that is some way off', () => {
  it('takes the round trip at least, and brings everything in order, the last answers too', async () => {
    const away = await echoAway(15)
    const socket = await away()

    const tookMs: number[] = []
    for (let trip = 0; trip < 10; trip++) tookMs.push(await roundTripOf(socket))
    let text = ''
    socket.on('data', (chunk) => {
      text += chunk
    })
    const sent = Array.from({ length: 200 }, (_, index) => `${index};`)
    for (const piece of sent) {
      socket.write(piece)
      await new Promise(setImmediate)
    }
    socket.end()
    await once(socket, 'close')

    // Timers may be early by less than a millisecond, and there are two.
    expect(Math.min(...tookMs)).toBeGreaterThan(13)
    expect(text).toBe(sent.join(''))
  })

  it('survives callers who break off with something on its way', async () => {
    const away = await echoAway(20)

    for (let caller = 0; caller < 20; caller++) {
      const socket = await away()
      socket.write('x'.repeat(100_000))
      await new Promise(setImmediate)
      socket.resetAndDestroy()
    }

    expect(await roundTripOf(await away())).toBeGreaterThan(18)
  })
})
