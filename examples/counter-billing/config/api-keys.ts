import type { ConfiguredApiKey } from '../http/api-options.ts'
import { parseJsonc } from './jsonc.ts'
import type { Setting } from './setting.ts'

const fields = ['id', 'sha256', 'userId', 'scopes', 'maxRequests']

/** API keys, as objects in a file, or as JSON in a text. Nobody sees more of them than how many there are. */
export function apiKeys(doc: string): Setting<readonly ConfiguredApiKey[]> {
  return {
    doc,
    value: [],
    rule: `an array of API keys, each with ${fields.join(', ')}, the last of which may be left out`,
    schema: {
      type: 'array',
      items: {
        type: 'object',
        required: fields.slice(0, -1),
        additionalProperties: false,
        properties: {
          id: { type: 'string', minLength: 1 },
          sha256: { type: 'string', pattern: '^[0-9a-f]{64}$' },
          userId: { type: 'string', minLength: 1 },
          scopes: { type: 'array', items: { type: 'string' } },
          maxRequests: { type: 'integer', minimum: 1 },
        },
      },
    },
    accept: (given) => (Array.isArray(given) && given.every(isApiKey) ? given : undefined),
    parse: (text) => {
      try {
        return parseJsonc(text)
      } catch {
        return text
      }
    },
    show: (keys) => (keys.length === 0 ? 'none' : `*** (${keys.length})`),
    isSecret: true,
  }
}

function isApiKey(given: unknown): given is ConfiguredApiKey {
  const { id, sha256, userId, scopes, maxRequests, ...others } = (given ?? {}) as Record<string, unknown>
  const isText = (value: unknown): boolean => typeof value === 'string' && value !== ''
  const isDigest = typeof sha256 === 'string' && /^[\da-f]{64}$/.test(sha256)
  const isLimit = maxRequests === undefined || (Number.isSafeInteger(maxRequests) && (maxRequests as number) > 0)
  const isScopes = Array.isArray(scopes) && scopes.every(isText)
  return isText(id) && isDigest && isText(userId) && isScopes && isLimit && Object.keys(others).length === 0
}
