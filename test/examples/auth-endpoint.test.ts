import { createRemoteJWKSet, decodeProtectedHeader, type JSONWebKeySet, jwtVerify } from 'jose'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { randomSecrets } from '../../examples/counter-billing/auth/clients.ts'
import { SigningKeys } from '../../examples/counter-billing/auth/signing-keys.ts'
import { basicCredentials } from '../../examples/counter-billing/auth/token-request.ts'
import { startAuth, type TestAuth } from './auth-client.ts'
import { rawConnection } from './raw-http.ts'

const grant_type = 'client_credentials'

async function keysOf({ service }: TestAuth): Promise<JSONWebKeySet['keys']> {
  const response = await fetch(`${service.url}/.well-known/jwks.json`)
  expect(response.headers.get('cache-control')).toBe('public, max-age=60')
  return ((await response.json()) as JSONWebKeySet).keys
}

describe('the token endpoint', () => {
  test('waits for no form that never ends', async () => {
    const { service, ask } = await startAuth({ limits: { headersTimeoutMs: 200, requestTimeoutMs: 400 } })
    const form = 'content-type: application/x-www-form-urlencoded\r\ncontent-length: 100'
    const text = `POST /oauth/token HTTP/1.1\r\nhost: localhost\r\n${form}\r\n\r\ngrant_type=`

    expect(await rawConnection(service.url, text).closed).toMatch(/^HTTP\/1\.1 408 /)
    expect((await ask({ grant_type, audience: 'counter-service' }, 'gateway')).status).toBe(200)
  })

  test('gives a client a token for the audience and the scopes that it asks for', async () => {
    const auth = await startAuth({ tokenLifeSeconds: 120 })

    const response = await auth.ask({ grant_type, audience: 'counter-service', scope: 'counters:read' }, 'gateway')

    expect([response.status, response.headers.get('cache-control'), response.headers.get('pragma')]).toEqual([
      200,
      'no-store',
      'no-cache',
    ])
    const answer = (await response.json()) as { access_token: string }
    expect(answer).toMatchObject({ token_type: 'Bearer', expires_in: 120, scope: 'counters:read' })
    const keys = createRemoteJWKSet(new URL('/.well-known/jwks.json', auth.service.url))
    const { payload, protectedHeader } = await jwtVerify(answer.access_token, keys, { issuer: auth.service.url })
    expect(protectedHeader).toMatchObject({ alg: 'ES256', typ: 'at+jwt', kid: auth.service.keys.current.kid })
    expect(payload).toMatchObject({ sub: 'gateway', client_id: 'gateway', aud: 'counter-service' })
    // In whole seconds, and never less than was said.
    expect((payload.exp ?? 0) - (payload.iat ?? 0) - 120).toBeOneOf([0, 1])
  })

  test('takes the credentials in the form, too, and gives all that the client may have where it names no scope', async () => {
    const { ask, secrets } = await startAuth()
    const credentials = { client_id: 'load-generator', client_secret: secrets['load-generator'] }

    const response = await ask({ grant_type, ...credentials })

    // There is one audience that it may ask for, so that it needn't be named either.
    expect(await response.json()).toMatchObject({ scope: 'counters:read counters:write' })
  })

  test('takes a secret with any characters, by either way', async () => {
    const secret = 'ü:%+&= "½" : and more'
    const { ask } = await startAuth({ secrets: { gateway: secret } })
    const form = { grant_type, audience: 'counter-service' }

    const inForm = await ask({ ...form, client_id: 'gateway', client_secret: secret })
    const { service } = await startAuth({ secrets: { gateway: secret } })
    const byHeader = await fetch(`${service.url}/oauth/token`, {
      method: 'POST',
      headers: { authorization: basicCredentials('gateway', secret) },
      body: new URLSearchParams(form),
    })

    expect([inForm.status, byHeader.status]).toEqual([200, 200])
  })

  const counters = { grant_type, audience: 'counter-service' }
  test.each<[string, Record<string, string>, 'gateway' | undefined, number, string]>([
    ['no client', counters, undefined, 401, 'invalid_client'],
    ['a client without a secret', { ...counters, client_id: 'gateway' }, undefined, 401, 'invalid_client'],
    [
      'a wrong secret',
      { ...counters, client_id: 'gateway', client_secret: 'x'.repeat(43) },
      undefined,
      401,
      'invalid_client',
    ],
    [
      'a client that nobody knows',
      { ...counters, client_id: 'toString', client_secret: 'x' },
      undefined,
      401,
      'invalid_client',
    ],
    ['two ways to authenticate', { ...counters, client_secret: 'x' }, 'gateway', 400, 'invalid_request'],
    ['two clients', { ...counters, client_id: 'back-office' }, 'gateway', 400, 'invalid_request'],
    ['no grant', { audience: 'counter-service' }, 'gateway', 400, 'invalid_request'],
    ['an empty grant', { ...counters, grant_type: '' }, 'gateway', 400, 'invalid_request'],
    ['another grant', { ...counters, grant_type: 'password' }, 'gateway', 400, 'unsupported_grant_type'],
    ['a refresh', { grant_type: 'refresh_token', refresh_token: 'x' }, 'gateway', 400, 'unsupported_grant_type'],
    ['no audience of two', { grant_type }, 'gateway', 400, 'invalid_request'],
    ['an audience that is nobody', { ...counters, audience: 'constructor' }, 'gateway', 400, 'invalid_target'],
    ['an audience of others', { ...counters, audience: 'gateway' }, 'gateway', 400, 'unauthorized_client'],
    ['a scope of others', { ...counters, scope: 'counters:read billing:read' }, 'gateway', 400, 'invalid_scope'],
    ['a scope that is nothing', { ...counters, scope: 'everything' }, 'gateway', 400, 'invalid_scope'],
    ['a malformed scope', { ...counters, scope: 'counters:read  "' }, 'gateway', 400, 'invalid_scope'],
  ])('refuses %s', async (_name, form, clientId, status, error) => {
    const { ask, service } = await startAuth()

    const response = await ask(form, clientId)

    expect([response.status, response.headers.get('cache-control')]).toEqual([status, 'no-store'])
    // Who isn't known is told how to become so (RFC 9110, section 15.5.2).
    expect(response.headers.get('www-authenticate')).toEqual(
      status === 401 ? expect.stringMatching(/^Basic realm="/) : null,
    )
    const answer = (await response.json()) as object
    expect(answer).toEqual({ error, error_description: expect.any(String) })
    expect(service.stats()).toEqual({ issued: 0, refused: 1 })
  })

  test.each([
    ['a wrong secret', basicCredentials('gateway', 'wrong')],
    ['no pair', `Basic ${Buffer.from('gateway').toString('base64')}`],
    ['a broken escape', `Basic ${Buffer.from('gateway:%zz').toString('base64')}`],
    ['what is no base64', 'Basic gate:way'],
    ['another scheme', 'Bearer x'],
  ])('answers a header with %s by a header', async (_name, authorization) => {
    const { service } = await startAuth()

    const response = await fetch(`${service.url}/oauth/token`, {
      method: 'POST',
      headers: { authorization },
      body: new URLSearchParams(counters),
    })

    expect(response.status).toBe(401)
    expect(response.headers.get('www-authenticate')).toMatch(/^Basic realm="/)
    expect(await response.json()).toMatchObject({ error: 'invalid_client' })
  })

  test.each([
    ['a parameter twice', 'application/x-www-form-urlencoded', 'grant_type=client_credentials&grant_type=x', 'twice'],
    ['JSON', 'application/json', '{"grant_type":"client_credentials"}', 'urlencoded'],
    ['too much', 'application/x-www-form-urlencoded', `grant_type=${'x'.repeat(20_000)}`, 'large'],
  ])('refuses %s', async (_name, contentType, body) => {
    const { service, secrets } = await startAuth()

    const response = await fetch(`${service.url}/oauth/token`, {
      method: 'POST',
      headers: { 'content-type': contentType, authorization: basicCredentials('gateway', secrets.gateway) },
      body,
    })

    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ error: 'invalid_request' })
  })

  test('repeats no secret in what it refuses', async () => {
    const secret = 'not-the-secret-of-anybody'
    const { ask } = await startAuth()

    const answers = [
      await ask({ ...counters, client_id: secret, client_secret: secret }),
      await ask({ ...counters, grant_type: secret, client_id: 'gateway', client_secret: secret }),
      await ask({ ...counters, audience: secret, scope: secret }, 'gateway'),
    ]

    for (const answer of answers) expect(await answer.text()).not.toContain(secret)
  })
})

describe('the keys of the auth service', () => {
  test('are published without their private parts, the next one before it is used', async () => {
    const auth = await startAuth()

    const keys = await keysOf(auth)

    expect(keys).toHaveLength(2)
    expect(keys[0]).toMatchObject({
      kid: auth.service.keys.current.kid,
      kty: 'EC',
      crv: 'P-256',
      alg: 'ES256',
      use: 'sig',
    })
    expect(keys.some((key) => 'd' in key)).toBe(false)
  })

  test('change without a token becoming invalid', async () => {
    const auth = await startAuth()
    const [, next] = await keysOf(auth)
    const token = await auth.token('gateway', 'counter-service')

    await auth.service.keys.rotate()

    const later = await auth.token('gateway', 'counter-service')
    const keys = await keysOf(auth)
    expect(decodeProtectedHeader(later).kid).toBe(next?.kid)
    expect(keys.map(({ kid }) => kid)).toContain(decodeProtectedHeader(token).kid)
    expect(keys).toHaveLength(3)
  })

  test('are there until the last token under them has expired, to the second', async () => {
    const clock = vi.spyOn(Date, 'now')
    onTestFinished(() => clock.mockRestore())
    const start = 1_800_000_000_400
    clock.mockReturnValue(start)
    const keys = await SigningKeys.make(60_000)
    const { kid } = keys.current
    await keys.rotate()
    const isThere = (): boolean => keys.publicKeys().keys.some((key) => key.kid === kid)

    // A token that was signed just before says that it is valid until the end of its last second.
    clock.mockReturnValue(start + 60_500)
    expect(isThere()).toBe(true)
    clock.mockReturnValue(start + 62_000)
    expect(isThere()).toBe(false)
  })

  test('are forgotten once no token under them can be valid', async () => {
    const auth = await startAuth({ tokenLifeSeconds: 1 })
    const [first] = await keysOf(auth)

    await auth.service.keys.rotate()

    await expect
      .poll(async () => (await keysOf(auth)).map(({ kid }) => kid), { timeout: 5_000 })
      .not.toContain(first?.kid)
  })
})

test('random secrets are long, and no two are equal', () => {
  const secrets = [...Object.values(randomSecrets()), ...Object.values(randomSecrets())]

  expect(new Set(secrets).size).toBe(secrets.length)
  expect(Math.min(...secrets.map(({ length }) => length))).toBeGreaterThanOrEqual(43)
})
