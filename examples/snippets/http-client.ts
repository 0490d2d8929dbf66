// A client of one service: retries where they do no harm, a token that is renewed when it is refused, a circuit breaker.
import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { CircuitBreaker, isSpillwayError } from 'spillway'
import { createHttpClient } from 'spillway/http'
import * as undici from 'undici'

let down = false
const seen: string[] = []
const server = createServer((request, response) => {
  seen.push(`${request.method} ${request.url} ${request.headers.authorization}`)
  const expired = request.headers.authorization === 'Bearer old'
  response.statusCode = down ? 500 : expired ? 401 : seen.length === 3 ? 503 : 200
  response.end(JSON.stringify({ name: 'Ada' }))
})
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))

let token = 'old'
const client = createHttpClient(undici, {
  baseUrl: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
  retry: { attempts: 3, delayMs: 10 },
  token: {
    get: () => token,
    invalidate: () => {
      token = 'new'
    },
  },
  breaker: new CircuitBreaker({ failureThreshold: 2 }),
})

const user = (await client.get('/users/1')).json<{ name: string }>()
console.log(user.name, seen)
assert.deepEqual(seen, ['GET /v1/users/1 Bearer old', 'GET /v1/users/1 Bearer new'])

// The service is busy once: a GET is made again by itself.
assert.equal((await client.get('/users/2')).status, 200)
assert.equal(client.stats().retries, 1)

// It is down: an answer is an answer, until the circuit opens and nothing is sent any more.
down = true
assert.equal((await client.post('/users', { json: user })).status, 500)
assert.equal((await client.post('/users', { json: user })).status, 500)
const refused = await client.get('/users/1').catch((error: unknown) => error)
assert.ok(isSpillwayError(refused, 'ERR_CIRCUIT_OPEN'))
console.log(refused.message)

const { offered, succeeded, failed, attempts } = client.stats()
assert.deepEqual({ offered, succeeded, failed, attempts }, { offered: 5, succeeded: 4, failed: 1, attempts: 6 })
await client.close({ timeoutMs: 1000 })
server.close()
