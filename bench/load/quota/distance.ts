// A way to the database, in a process of its own: what passes takes about half of the round trip in either direction, in whole milliseconds,
// since Node's timers know no parts of them. Those of one duration fire in the order in which they were set, so nothing overtakes; they
// may be up to a millisecond late.
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { setting } from '../targets/listen.ts'

const roundTripMs = Number(setting('ROUND_TRIP_MS'))
const thereMs = Math.floor(roundTripMs / 2)
const { hostname, port } = new URL(setting('DATABASE_URL'))

// Half-open: an end, too, is on its way for a while, and what comes back is still to arrive.
const server = createServer({ noDelay: true, allowHalfOpen: true }, (near) => {
  const far = connect({ host: hostname, port: Number(port), noDelay: true, allowHalfOpen: true })
  carry(near, far, thereMs)
  carry(far, near, roundTripMs - thereMs)
})
server.listen(0, '127.0.0.1', () => {
  const url = new URL(setting('DATABASE_URL'))
  url.port = String((server.address() as AddressInfo).port)
  process.send?.({ type: 'ready', url: url.href })
})
process.once('SIGTERM', () => process.exit(0))
process.once('disconnect', () => process.exit(1))

function carry(from: Socket, to: Socket, delayMs: number): void {
  // A timer of 0 takes a millisecond.
  const later = (act: () => void): void => {
    if (delayMs === 0) act()
    else setTimeout(act, delayMs)
  }
  from.on('data', (chunk) => later(() => void (to.writable && to.write(chunk))))
  from.once('end', () => later(() => to.end()))
  from.on('error', () => to.destroy())
}
