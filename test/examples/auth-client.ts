import { onTestFinished } from 'vitest'
import { randomSecrets } from '../../examples/counter-billing/auth/clients.ts'
import type { ClientId } from '../../examples/counter-billing/auth/permissions.ts'
import {
  type AuthService,
  type AuthServiceOptions,
  startAuthService,
} from '../../examples/counter-billing/auth/service.ts'
import { basicCredentials } from '../../examples/counter-billing/auth/token-request.ts'

/** An auth service of a test, and what one asks of it by HTTP. */
export interface TestAuth {
  readonly service: AuthService
  readonly secrets: Readonly<Record<ClientId, string>>
  /** Who a service is there. */
  client(clientId: ClientId): { url: string; clientId: ClientId; clientSecret: string }
  /** Sends a form to the token endpoint; the client's credentials go by HTTP Basic, where there is a client. */
  ask(form: Readonly<Record<string, string>>, clientId?: ClientId): Promise<Response>
  /** A token for somebody. */
  token(clientId: ClientId, audience: string, scope?: string): Promise<string>
}

/** Starts an auth service on a free port that ends with the test. */
export async function startAuth(options: Partial<AuthServiceOptions> = {}): Promise<TestAuth> {
  const secrets = { ...randomSecrets(), ...options.secrets }
  const service = await startAuthService({ port: 0, log: () => undefined, ...options, secrets })
  onTestFinished(() => service.close())
  const ask: TestAuth['ask'] = (form, clientId) =>
    fetch(`${service.url}/oauth/token`, {
      method: 'POST',
      body: new URLSearchParams(form),
      ...(clientId && { headers: { authorization: basicCredentials(clientId, secrets[clientId]) } }),
    })
  const token: TestAuth['token'] = async (clientId, audience, scope = '') => {
    const response = await ask({ grant_type: 'client_credentials', audience, scope }, clientId)
    return ((await response.json()) as { access_token: string }).access_token
  }
  const client: TestAuth['client'] = (clientId) => ({ url: service.url, clientId, clientSecret: secrets[clientId] })
  return { service, secrets, client, ask, token }
}
