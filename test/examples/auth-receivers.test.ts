import { createHmac, randomUUID } from 'node:crypto'
import { Metadata, type ServiceError, status } from '@grpc/grpc-js'
import { type CryptoKey, exportSPKI, generateKeyPair, importJWK, SignJWT } from 'jose'
import { MemoryCounterStore } from 'spillway/testing'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { randomSecrets } from '../../examples/counter-billing/auth/clients.ts'
import { scopesOf } from '../../examples/counter-billing/auth/permissions.ts'
import { type AuthService, startAuthService } from '../../examples/counter-billing/auth/service.ts'
import { billingClient } from '../../examples/counter-billing/billing/protocol.ts'
import { openQuotaStore } from '../../examples/counter-billing/billing/quota-store.ts'
import { startBillingService } from '../../examples/counter-billing/billing/service.ts'
import { openDatabase } from '../../examples/counter-billing/counter/database.ts'
import { counterClient } from '../../examples/counter-billing/counter/protocol.ts'
import { closeAll, type Running } from '../../examples/counter-billing/running.ts'
import { startCounterService, startGateway } from '../../examples/counter-billing/service.ts'

type Audience = keyof typeof scopesOf

/** A service that takes tokens: what it says to an authorization, in the same words whether by HTTP or by gRPC. */
interface Receiver {
  readonly audience: Audience
  /** `ok`, or why not. */
  ask(authorization: string | undefined): Promise<'ok' | 'unauthenticated' | 'denied' | 'unavailable'>
  /** How many tokens it has verified. */
  verifications(): number
}

const log = (): void => undefined
const open: Running['parts'][number][] = []
const receivers = new Map<Audience, Receiver>()
let auth: AuthService

beforeAll(async () => {
  const secrets = randomSecrets()
  auth = await startAuthService({ secrets, port: 0, log })
  const database = await openDatabase()
  const quota = await openQuotaStore({}, database)
  const stores = { live: new MemoryCounterStore(), durable: new MemoryCounterStore() }
  const trust = { url: auth.url }
  const counters = await startCounterService({ ...stores, auth: trust, port: 0, log })
  const billing = await startBillingService({ database, quotaStore: quota.store, auth: trust, port: 0, log })
  const gateway = await startGateway({
    counters: stores,
    auth: { ...trust, clientId: 'gateway', clientSecret: secrets.gateway, mode: 'required' },
    ports: [0],
    log,
  })
  open.push(...gateway.parts, ...billing.parts, ...counters.parts, quota, database, ...auth.parts)

  receivers.set('gateway', {
    audience: 'gateway',
    ask: async (authorization) => {
      const headers = authorization === undefined ? {} : { authorization }
      const response = await fetch(`${gateway.url}/api/v1/counter/a/like`, { headers })
      return ({ 200: 'ok', 401: 'unauthenticated', 403: 'denied' } as const)[response.status] ?? 'unavailable'
    },
    verifications: () => Number(gateway.verifier?.stats()['verifications']),
  })
  const byGrpc = (
    audience: Audience,
    call: (metadata: Metadata, done: (error: ServiceError | null) => void) => unknown,
    verifications: () => number,
  ): Receiver => ({
    audience,
    ask: (authorization) =>
      new Promise((resolve) => {
        const metadata = new Metadata()
        if (authorization !== undefined) metadata.set('authorization', authorization)
        call(metadata, (error) => {
          if (error === null) resolve('ok')
          else if (error.code === status.UNAUTHENTICATED) resolve('unauthenticated')
          else resolve(error.code === status.PERMISSION_DENIED ? 'denied' : 'unavailable')
        })
      }),
    verifications,
  })
  const counterCalls = counterClient(counters.address)
  const billingCalls = billingClient(billing.address)
  open.unshift({
    name: 'clients',
    close: async () => {
      counterCalls.close()
      billingCalls.close()
    },
  })
  const ask = { store: 'LIVE', keys: ['a:like'] } as const
  receivers.set(
    'counter-service',
    byGrpc(
      'counter-service',
      (metadata, done) => counterCalls.get(ask, metadata, {}, done),
      () => Number(counters.verifier?.stats()['verifications']),
    ),
  )
  receivers.set(
    'billing-service',
    byGrpc(
      'billing-service',
      (metadata, done) => billingCalls.getBalance({ userId: 'ann' }, metadata, {}, done),
      () => Number(billing.verifier?.stats()['verifications']),
    ),
  )
})

afterAll(() => closeAll(open))

interface Claims {
  iss?: string
  aud?: string
  sub?: string | undefined
  scope?: string
  exp?: number | undefined
}

/** A token as the auth service would make it, but for what a test changes. */
async function forge(
  audience: Audience,
  claims: Claims = {},
  { key = auth.keys.current.privateKey, ...header }: { key?: CryptoKey; kid?: string; typ?: string } = {},
): Promise<string> {
  const now = Math.floor(Date.now() / 1_000)
  const usual = { iss: auth.issuer, aud: audience, sub: 'gateway', scope: scopesOf[audience].join(' '), exp: now + 60 }
  const payload = Object.entries({ ...usual, jti: randomUUID(), ...claims }).filter(([, value]) => value !== undefined)
  return new SignJWT(Object.fromEntries(payload))
    .setProtectedHeader({ alg: 'ES256', typ: 'at+jwt', kid: auth.keys.current.kid, ...header })
    .sign(key)
}

const part = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url')
const partsOf = (token: string): [string, string, string] => token.split('.') as [string, string, string]

/** Another audience than that. */
const foreign = (audience: Audience): Audience => (audience === 'gateway' ? 'counter-service' : 'gateway')

const wrong: readonly [string, (audience: Audience) => Promise<string | undefined>][] = [
  ['no token', async () => undefined],
  ['an expired token', (audience) => forge(audience, { exp: Math.floor(Date.now() / 1_000) - 1 })],
  ['a token for another audience', (audience) => forge(audience, { aud: foreign(audience) })],
  ['a token of another issuer', (audience) => forge(audience, { iss: 'http://elsewhere' })],
  ['a token that never expires', (audience) => forge(audience, { exp: undefined })],
  ['a token that is nobody’s', (audience) => forge(audience, { sub: undefined })],
  ['a token of another kind', (audience) => forge(audience, {}, { typ: 'JWT' })],
  ['a token of an unknown key', (audience) => forge(audience, {}, { kid: 'unknown' })],
  [
    'a token that another key signed under this one’s name',
    async (audience) => forge(audience, {}, { key: (await generateKeyPair('ES256')).privateKey }),
  ],
  [
    'a token without a signature',
    async (audience) => {
      const [, payload] = partsOf(await forge(audience))
      return `${part({ alg: 'none', typ: 'at+jwt' })}.${payload}.`
    },
  ],
  [
    'a token whose signature was taken off',
    async (audience) => {
      const [header, payload] = partsOf(await forge(audience))
      return `${header}.${payload}.`
    },
  ],
  [
    'a token whose claims were changed',
    async (audience) => {
      const [header, payload, signature] = partsOf(await forge(audience))
      const claims = JSON.parse(Buffer.from(payload, 'base64url').toString()) as object
      return `${header}.${part({ ...claims, sub: 'somebody' })}.${signature}`
    },
  ],
  [
    'a token that is signed with the public key as a secret',
    async (audience) => {
      const { publicJwk, kid } = auth.keys.current
      const [, payload] = partsOf(await forge(audience))
      const signed = `${part({ alg: 'HS256', typ: 'at+jwt', kid })}.${payload}`
      const publicKey = (await importJWK(publicJwk, 'ES256', { extractable: true })) as CryptoKey
      const secret = await exportSPKI(publicKey)
      return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`
    },
  ],
  ['what is no token', async () => 'x'],
  ['more than any token', async () => 'x'.repeat(5_000)],
]

describe.each([...Object.keys(scopesOf)] as Audience[])('the %s', (audience) => {
  const receiver = (): Receiver => receivers.get(audience) as Receiver
  const bearer = (token: string | undefined): string | undefined => token && `Bearer ${token}`

  test('takes a token for itself that allows what is asked', async () => {
    expect(await receiver().ask(bearer(await forge(audience)))).toBe('ok')
    // The scheme's name has no case (RFC 9110).
    expect(await receiver().ask(`bearer ${await forge(audience)}`)).toBe('ok')
  })

  test.each(wrong)('refuses %s', async (_name, make) => {
    expect(await receiver().ask(bearer(await make(audience)))).toBe('unauthenticated')
  })

  test('refuses credentials of another scheme', async () => {
    expect(await receiver().ask(`Basic ${await forge(audience)}`)).toBe('unauthenticated')
  })

  test('refuses a token that allows something else', async () => {
    expect(await receiver().ask(bearer(await forge(audience, { scope: 'everything:else' })))).toBe('denied')
  })

  test('refuses it whoever has it, by whatever name', async () => {
    const sub = 'Jörg "☃" \\ \r\nset-cookie: a=b'

    expect(await receiver().ask(bearer(await forge(audience, { sub, scope: 'everything:else' })))).toBe('denied')
  })

  test('verifies a token once, for all that come with it at once and after', async () => {
    const authorization = bearer(await forge(audience))
    const before = receiver().verifications()

    const first = await Promise.all(Array.from({ length: 20 }, () => receiver().ask(authorization)))
    const later = await receiver().ask(authorization)

    expect(new Set([...first, later])).toEqual(new Set(['ok']))
    expect(receiver().verifications() - before).toBe(1)
  })

  test('refuses a token that it has verified once it has expired', async () => {
    const authorization = bearer(await forge(audience, { exp: Math.floor(Date.now() / 1_000) + 2 }))

    expect(await receiver().ask(authorization)).toBe('ok')
    await expect.poll(() => receiver().ask(authorization), { timeout: 5_000 }).toBe('unauthenticated')
  })

  test('takes tokens of the next key, which it has been told of before', async () => {
    expect(await receiver().ask(bearer(await forge(audience)))).toBe('ok')
    const before = auth.keys.current

    await auth.keys.rotate()

    expect(auth.keys.current.kid).not.toBe(before.kid)
    expect(await receiver().ask(bearer(await forge(audience)))).toBe('ok')
    // And those that the old one has signed.
    expect(await receiver().ask(bearer(await forge(audience, {}, { key: before.privateKey, kid: before.kid })))).toBe(
      'ok',
    )
  })
})
