import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, onTestFinished, test, vi } from 'vitest'
import { randomSecrets } from '../../examples/counter-billing/auth/clients.ts'
import { authClient, clientSecrets, trustedIssuer } from '../../examples/counter-billing/auth/environment.ts'
import { basicCredentials } from '../../examples/counter-billing/auth/token-request.ts'
import { type ServiceProcess, startProcess } from './processes.ts'

const secrets = randomSecrets()
const none = { DATABASE_URL: '', REDIS_URL: '', CONSUL_HTTP_ADDR: '' }
const withoutAuth = { ...none, AUTH_URL: '', AUTH_ISSUER: '', AUTH_CLIENT_SECRET: '', AUTH_CLIENT_SECRETS: '' }
const increments = '/api/v1/counter/increment'
const any = ['--grpc-port', '0', '--port', '0']

async function increment({ url }: ServiceProcess, token?: string): Promise<number> {
  const response = await fetch(url + increments, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...(token !== undefined && { authorization: `Bearer ${token}` }) },
    body: JSON.stringify({ resource_id: 'a', counter_type: 'like', ack: 'committed' }),
  })
  return response.status
}

async function tokenOf(url: string, clientId: keyof typeof secrets): Promise<string> {
  const response = await fetch(`${url}/oauth/token`, {
    method: 'POST',
    headers: { authorization: basicCredentials(clientId, secrets[clientId]) },
    body: new URLSearchParams({ grant_type: 'client_credentials' }),
  })
  return ((await response.json()) as { access_token: string }).access_token
}

describe('in processes of their own', { timeout: 120_000 }, () => {
  test('services show each other tokens of the auth service, and callers must have one where the gateway says so', async () => {
    const auth = await startProcess(['--role', 'auth', '--auth-port', '0', '--token-life', '60'], {
      ...withoutAuth,
      AUTH_CLIENT_SECRETS: JSON.stringify(secrets),
    })
    const env = { ...withoutAuth, AUTH_URL: auth.url }
    const counters = await startProcess(['--role', 'counters', ...any], env)
    const flags = ['--role', 'gateway', '--counters', counters.url, '--auth', 'required', ...any]
    const gateway = await startProcess(flags, { ...env, AUTH_CLIENT_SECRET: secrets.gateway })

    const statuses = [await increment(gateway), await increment(gateway, await tokenOf(auth.url, 'load-generator'))]

    expect(statuses).toEqual([401, 200])
    const logs = [auth, counters, gateway].map(({ log }) => log()).join()
    for (const secret of Object.values(secrets)) expect(logs).not.toContain(secret)
  })

  test('without an auth service everybody is let in, and they say so', async () => {
    const counters = await startProcess(['--role', 'counters', ...any], withoutAuth)
    const gateway = await startProcess(['--role', 'gateway', '--counters', counters.url, ...any], withoutAuth)

    expect(await increment(gateway)).toBe(200)
    for (const { log } of [counters, gateway])
      expect(log()).toMatch(/AUTH_URL names no auth service: .* everybody is let in/)
  })

  test('all in one have an auth service of their own, for which secrets may come from a file', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'counter-billing-'))
    onTestFinished(() => rmSync(folder, { recursive: true }))
    const file = join(folder, 'secrets.json')
    writeFileSync(file, JSON.stringify({ 'load-generator': secrets['load-generator'] }), { mode: 0o600 })
    const flags = ['--secrets', file, '--auth', 'required', '--billing-port', '0', ...any]
    const service = await startProcess(flags, withoutAuth)

    const stats = (await (await fetch(`${service.url}/stats`)).json()) as { auth: object }

    expect(await increment(service)).toBe(401)
    expect(stats.auth).toMatchObject({ callers: { accepted: 0 } })
  })

  test.each([
    ['an auth service without clients', ['--role', 'auth'], /AUTH_CLIENT_SECRETS or --secrets/],
    ['tokens that nobody issues', ['--role', 'gateway', '--auth', 'required'], /--auth required needs AUTH_URL/],
  ])('%s are a reason not to start', async (_name, flags, reason) => {
    await expect(startProcess([...flags, ...any], withoutAuth)).rejects.toThrow(reason)
  })
})

describe('what the environment says', () => {
  test.each([
    ['secrets that are short', '{"gateway":"hush-hush"}', /gateway must be a string of at least 16 characters/],
    ['secrets that are no text', '{"gateway":["hush-hush-hush-hush"]}', /gateway must be a string/],
    ['what is no JSON', 'hush-hush', /AUTH_CLIENT_SECRETS must be a JSON object/],
    ['what is no object', '["hush-hush-hush-hush"]', /must be a JSON object/],
    [
      'a client that is nobody',
      '{"constructor":"hush-hush-hush-hush"}',
      /names a client that isn't there: constructor/,
    ],
  ])('is refused without being repeated: %s', (_name, text, reason) => {
    vi.stubEnv('AUTH_CLIENT_SECRETS', text)

    const failure = attempt(() => clientSecrets(undefined))

    expect(failure).toMatch(reason)
    expect(failure).not.toContain('hush')
  })

  test('names the client whose secret is missing', () => {
    vi.stubEnv('AUTH_CLIENT_SECRET', '')

    expect(attempt(() => authClient({ url: 'http://auth' }, 'gateway'))).toMatch(/the secret of the client gateway/)
  })

  test.each([
    'nowhere',
    'localhost:50053',
    '127.0.0.1:50053',
    'ftp://auth',
    'http://auth/tenant',
    'http://auth?a=b',
    'http://hush@auth',
  ])('must name an auth service by a URL, without a path: not %s', (url) => {
    vi.stubEnv('AUTH_URL', url)

    expect(attempt(() => trustedIssuer())).toBe('AUTH_URL must be http://host:port or https://host:port, and no more')
  })

  test.each(['http://127.0.0.1:50053', 'https://auth.example.com', 'http://[::1]:50053'])(
    'may name one with a slash behind it: %s',
    (url) => {
      vi.stubEnv('AUTH_ISSUER', 'https://issuer.example.com/')
      vi.stubEnv('AUTH_URL', `${url}/`)

      expect(trustedIssuer()).toEqual({ url, issuer: 'https://issuer.example.com/' })
    },
  )

  test('may leave an auth service out', () => {
    vi.stubEnv('AUTH_URL', '')
    vi.stubEnv('AUTH_CLIENT_SECRETS', '')

    expect([trustedIssuer(), clientSecrets(undefined)]).toEqual([undefined, undefined])
  })
})

afterEach(() => vi.unstubAllEnvs())

function attempt(run: () => unknown): string {
  try {
    run()
    return 'nothing went wrong'
  } catch (error) {
    return (error as Error).message
  }
}
