// A way to the database, in a process of its own: what passes takes half of the round trip in either direction. Node's timers of one
// duration fire in the order in which they were set, so nothing overtakes; they may be up to a millisecond late.
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { setting } from '../targets/listen.ts'

const oneWayMs = Number(setting('ROUND_TRIP_MS')) / 2
const { hostname, port } = new URL(setting('DATABASE_URL'))

const server = createServer({ noDelay: true }, (near) => {
  const far = connect({ host: hostname, port: Number(port), noDelay: true })
  carry(near, far)
  carry(far, near)
})
server.listen(0, '127.0.0.1', () => {
  const url = new URL(setting('DATABASE_URL'))
  url.port = String((server.address() as AddressInfo).port)
  process.send?.({ type: 'ready', url: url.href })
})
process.once('SIGTERM', () => process.exit(0))
process.once('disconnect', () => process.exit(1))

function carry(from: Socket, to: Socket): void {
  from.on('data', (chunk) => setTimeout(() => to.write(chunk), oneWayMs))
  from.once('end', () => setTimeout(() => to.end(), oneWayMs))
  from.once('error', () => to.destroy())
}
