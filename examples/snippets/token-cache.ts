// Tokens of an hour: fetched once for everyone, replaced behind the callers, and anew when a server refuses one.
import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { TokenCache } from 'spillway'
import { tokenFetch } from 'spillway/http'
import { FakeClock } from 'spillway/testing'

const clock = new FakeClock() // an hour passes in no time; leave it out in a service
let logins = 0

// What takes 200 to 500 ms each time without a cache.
async function logIn(): Promise<{ access_token: string; expires_in: number }> {
  return { access_token: `token-${++logins}`, expires_in: 3600 }
}

const tokens = new TokenCache(
  async () => {
    const { access_token, expires_in } = await logIn()
    return { token: access_token, expiresInMs: expires_in * 1000 }
  },
  { clock, jitter: 0 },
)
tokens.on('refreshed', ({ background, expiresAt }) => console.log({ background, until: new Date(expiresAt) }))

// A hundred requests come at once: one login.
const all = await Promise.all(Array.from({ length: 100 }, () => tokens.get()))
assert.deepEqual([...new Set(all)], ['token-1'])

// After 50 of its 60 minutes it is served once more, and replaced behind whoever asked.
await clock.advance(50 * 60_000)
assert.equal(await tokens.get(), 'token-1')
await clock.advance(0)
assert.equal(await tokens.get(), 'token-2')

// A server that refuses the token gets the request once more, with a new one.
const seen: (string | undefined)[] = []
const server = createServer((request, response) => {
  seen.push(request.headers.authorization)
  response.statusCode = request.headers.authorization === 'Bearer token-2' ? 401 : 200
  response.end()
})
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
const api = tokenFetch(tokens)
const response = await api(`http://127.0.0.1:${(server.address() as AddressInfo).port}`, {
  method: 'POST',
  body: 'hello',
})
assert.equal(response.status, 200)
assert.deepEqual(seen, ['Bearer token-2', 'Bearer token-3'])

const { offered, hits, fetches, invalidated } = tokens.stats()
console.log(seen, { offered, hits, fetches, invalidated })
assert.deepEqual({ fetches, invalidated }, { fetches: 3, invalidated: 1 })
await tokens.close()
server.close()
