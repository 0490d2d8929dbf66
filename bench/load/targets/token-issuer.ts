// An auth service far away, which takes its time for a token, and an API that takes requests with a valid one only.
import { randomUUID } from 'node:crypto'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setting } from './listen.ts'

const delayMs = Number(setting('DELAY_MS'))
const lifeMs = Number(setting('TOKEN_LIFE_MS'))
const expiries = new Map<string, number>()

const server = createServer((request, response) => {
  if (request.url === '/token') {
    setTimeout(() => {
      const token = randomUUID()
      expiries.set(token, Date.now() + lifeMs)
      setTimeout(() => expiries.delete(token), lifeMs)
      response.setHeader('content-type', 'application/json')
      response.end(JSON.stringify({ access_token: token, expires_in: lifeMs / 1_000 }))
    }, delayMs)
    return
  }
  const token = request.headers.authorization?.slice('Bearer '.length) ?? ''
  response.statusCode = (expiries.get(token) ?? 0) > Date.now() ? 200 : 401
  response.end()
})
server.keepAliveTimeout = 60_000
server.listen(0, '127.0.0.1', () => {
  process.send?.({ type: 'ready', url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` })
})
process.once('SIGTERM', () => process.exit(0))
process.once('disconnect', () => process.exit(1))
