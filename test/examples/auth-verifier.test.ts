import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { TokenVerifier, type TokenVerifierOptions } from '../../examples/counter-billing/auth/token-verifier.ts'
import { startAuth, type TestAuth } from './auth-client.ts'

const minutes = 60_000

function verifierOf(auth: TestAuth, options: Partial<TokenVerifierOptions> = {}): TokenVerifier {
  const verifier = new TokenVerifier({ url: auth.service.url, audience: 'gateway', ...options })
  onTestFinished(() => verifier.close())
  return verifier
}

/** Whether a verifier takes a new token. */
async function takesNew(auth: TestAuth, verifier: TokenVerifier): Promise<string> {
  const authorization = `Bearer ${await auth.token('load-generator', 'gateway')}`
  try {
    return (await verifier.check(authorization, 'counters:read')).client
  } catch (error) {
    return (error as { code: string }).code
  }
}

describe('the keys that a verifier has', () => {
  test('are fetched once, and not for a key that was published before it was used', async () => {
    const auth = await startAuth()
    const verifier = verifierOf(auth, { keysCooldownMs: minutes })
    const fetched = vi.spyOn(globalThis, 'fetch')
    onTestFinished(() => fetched.mockRestore())

    expect(await takesNew(auth, verifier)).toBe('load-generator')
    await auth.service.keys.rotate()
    expect(await takesNew(auth, verifier)).toBe('load-generator')

    expect(fetched.mock.calls.filter(([url]) => String(url).endsWith('/jwks.json'))).toHaveLength(1)
  })

  test('are fetched again for a key that they don’t have, but not for each token that is made up', async () => {
    const auth = await startAuth()
    const [eager, patient] = [verifierOf(auth, { keysCooldownMs: 0 }), verifierOf(auth, { keysCooldownMs: minutes })]
    for (const verifier of [eager, patient]) expect(await takesNew(auth, verifier)).toBe('load-generator')

    // Twice in a row, as after a theft: nobody was told of this one.
    await auth.service.keys.rotate()
    await auth.service.keys.rotate()

    expect(await takesNew(auth, eager)).toBe('load-generator')
    expect(await takesNew(auth, patient)).toBe('invalid_token')
  })
})

test('who issued a token may have another name than where it is found', async () => {
  const auth = await startAuth({ issuer: 'https://auth.example.com' })

  expect(await takesNew(auth, verifierOf(auth, { issuer: 'https://auth.example.com' }))).toBe('load-generator')
  expect(await takesNew(auth, verifierOf(auth))).toBe('invalid_token')
})

test('a token that was verified before is answered at once, and what it says is kept without it', async () => {
  const auth = await startAuth()
  const verifier = verifierOf(auth)
  const authorization = `Bearer ${await auth.token('load-generator', 'gateway')}`
  await verifier.check(authorization, undefined)

  expect(verifier.check(authorization, 'counters:read')).not.toBeInstanceOf(Promise)
  expect(() => verifier.check(authorization, 'billing:read')).toThrow(/doesn't allow billing:read/)
  expect(verifier.stats()).toEqual({ accepted: 2, refused: 1, verifications: 1, tokens: 1 })
})
