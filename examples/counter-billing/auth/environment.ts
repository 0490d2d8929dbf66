import { readFileSync } from 'node:fs'
import { UsageError } from '../command-line.ts'
import { type ClientSecrets, isClientId } from './clients.ts'
import type { ClientId } from './permissions.ts'
import type { AuthClient } from './service-tokens.ts'
import type { TrustedIssuer } from './token-verifier.ts'

/** The auth service that the environment names. */
export function trustedIssuer(
  url = process.env['AUTH_URL'] || undefined,
  issuer = process.env['AUTH_ISSUER'] || undefined,
): TrustedIssuer | undefined {
  if (url === undefined) return undefined
  if (!isOrigin(url)) throw new UsageError('AUTH_URL must be http://host:port or https://host:port, and no more')
  return { url: url.replace(/\/$/, ''), issuer }
}

/** Whether it has nothing that would be dropped where paths are added to it, and no credentials. */
function isOrigin(text: string): boolean {
  return /^https?:\/\/[^/?#@\s]+\/?$/i.test(text) && URL.canParse(text)
}

/** Who this process is at an auth service. Its secret is in the environment, where no list of processes shows it. */
export function authClient(
  { url }: TrustedIssuer,
  clientId: ClientId,
  clientSecret = process.env['AUTH_CLIENT_SECRET'],
): AuthClient {
  if (clientSecret) return { url, clientId, clientSecret }
  throw new UsageError(`AUTH_URL needs AUTH_CLIENT_SECRET, the secret of the client ${clientId}`)
}

/**
 * The secrets of clients, as JSON: `{"gateway": "…"}`. What is wrong with them is told without them.
 *
 * @param file - a file that has them, in place of AUTH_CLIENT_SECRETS.
 */
export function clientSecrets(file: string | undefined): ClientSecrets | undefined {
  const json = file === undefined ? process.env['AUTH_CLIENT_SECRETS'] || undefined : readSecrets(file)
  if (json === undefined) return undefined
  const name = file === undefined ? 'AUTH_CLIENT_SECRETS' : `--secrets ${file}`
  const secrets = parse(json)
  if (typeof secrets !== 'object' || secrets === null || Array.isArray(secrets)) {
    throw new UsageError(`${name} must be a JSON object of secrets by client`)
  }
  for (const [id, secret] of Object.entries(secrets)) {
    if (!isClientId(id)) throw new UsageError(`${name} names a client that isn't there: ${id}`)
    if (typeof secret !== 'string' || secret.length < 16) {
      throw new UsageError(`${name}: the secret of ${id} must be a string of at least 16 characters`)
    }
  }
  return secrets as ClientSecrets
}

function readSecrets(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    throw new UsageError(`--secrets can't be read: ${(error as Error).message}`)
  }
}

function parse(json: string): unknown {
  try {
    return JSON.parse(json)
  } catch {
    return undefined
  }
}
