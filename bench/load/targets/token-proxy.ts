// A proxy in front of an API that wants a token: it gets one for each request, keeps one by hand, or has a TokenCache.
import Fastify from 'fastify'
import { TokenCache } from 'spillway'
import { Agent, request } from 'undici'
import { serve, setting } from './listen.ts'

const api = setting('API')
const dispatcher = new Agent({ connections: 200, pipelining: 1 })
let [fetched, refused] = [0, 0]
/** How long each request waited for its token. */
let waitsMs: number[] = []

async function fetchToken(): Promise<{ token: string; expiresInMs: number }> {
  fetched++
  const { body } = await request(`${api}/token`, { dispatcher })
  const { access_token, expires_in } = (await body.json()) as { access_token: string; expires_in: number }
  return { token: access_token, expiresInMs: expires_in * 1_000 }
}

const cache = new TokenCache(fetchToken)
let kept: { readonly token: string; readonly until: number } | undefined

const ways: Readonly<Record<string, () => Promise<string>>> = {
  each: async () => (await fetchToken()).token,
  kept: async () => {
    if (kept !== undefined && Date.now() < kept.until) return kept.token
    const { token, expiresInMs } = await fetchToken()
    // A little before its end: it has a way to go.
    kept = { token, until: Date.now() + expiresInMs * 0.8 }
    return token
  },
  cache: () => cache.get(),
}
const tokenOf = ways[setting('TOKENS')]
if (tokenOf === undefined) throw new Error(`there is no way to get a token called ${setting('TOKENS')}`)

const app = Fastify()
app.get('/call', async (_request, reply) => {
  const beganAt = performance.now()
  const token = await tokenOf()
  waitsMs.push(performance.now() - beganAt)
  const { statusCode, body } = await request(api, { dispatcher, headers: { authorization: `Bearer ${token}` } })
  await body.dump()
  if (statusCode !== 200) refused++
  return reply.code(statusCode === 200 ? 200 : 502).send({ status: statusCode })
})
app.get('/report', async () => {
  const sorted = Float64Array.from(waitsMs).sort()
  const at = (share: number): number => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0
  const report = { fetched, refused, tokenP50Ms: at(0.5), tokenP99Ms: at(0.99) }
  waitsMs = []
  fetched = refused = 0
  return report
})
await serve(app)
