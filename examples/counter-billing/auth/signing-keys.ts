import { type CryptoKey, calculateJwkThumbprint, exportJWK, generateKeyPair, type JSONWebKeySet, type JWK } from 'jose'

/** ECDSA on P-256, which every WebCrypto has without a flag. */
export const algorithm = 'ES256'

/** A key pair of the token endpoint. */
export interface SigningKey {
  /** The thumbprint of the public key (RFC 7638). */
  readonly kid: string
  readonly privateKey: CryptoKey
  readonly publicJwk: JWK
}

/** A token expires at the end of a whole second, and may be signed while its key is being replaced. */
const lastSecondMs = 1_500

interface RetiredKey {
  readonly publicJwk: JWK
  readonly untilMs: number
}

/**
 * The keys that tokens are signed with, made at the start and kept in memory alone. The set that is published has the current one, the
 * next one, so that receivers know it before the first token comes, and those whose tokens may still be valid.
 */
export class SigningKeys {
  readonly #tokenLifeMs: number
  #current: SigningKey
  #next: SigningKey
  #retired: RetiredKey[] = []

  private constructor(current: SigningKey, next: SigningKey, tokenLifeMs: number) {
    this.#current = current
    this.#next = next
    this.#tokenLifeMs = tokenLifeMs
  }

  static async make(tokenLifeMs: number): Promise<SigningKeys> {
    return new SigningKeys(await makeKey(), await makeKey(), tokenLifeMs)
  }

  /** What to sign with now. */
  get current(): SigningKey {
    return this.#current
  }

  /** Signs with the next key from now on. */
  async rotate(): Promise<void> {
    const next = await makeKey()
    const untilMs = Date.now() + this.#tokenLifeMs + lastSecondMs
    this.#retired.push({ publicJwk: this.#current.publicJwk, untilMs })
    this.#current = this.#next
    this.#next = next
  }

  /** The public keys (RFC 7517). */
  publicKeys(): JSONWebKeySet {
    this.#retired = this.#retired.filter(({ untilMs }) => untilMs > Date.now())
    return { keys: [this.#current, this.#next, ...this.#retired].map(({ publicJwk }) => publicJwk) }
  }
}

async function makeKey(): Promise<SigningKey> {
  const { privateKey, publicKey } = await generateKeyPair(algorithm)
  const jwk = await exportJWK(publicKey)
  const kid = await calculateJwkThumbprint(jwk)
  return { kid, privateKey, publicJwk: { ...jwk, kid, alg: algorithm, use: 'sig' } }
}
