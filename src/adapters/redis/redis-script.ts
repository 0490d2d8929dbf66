import { createHash } from 'node:crypto'
import type { RedisFace } from './redis-client.js'

/** A Lua script, sent by its hash, and in full to a server that doesn't know it: after a restart, a failover, SCRIPT FLUSH. */
export class RedisScript {
  readonly source: string
  readonly #sha: string

  constructor(source: string) {
    this.source = source
    this.#sha = createHash('sha1').update(source).digest('hex')
  }

  /**
   * Runs it.
   *
   * @param keys - the first of them says which node it is sent to.
   */
  async run(face: RedisFace, keys: readonly string[], args: readonly string[]): Promise<unknown> {
    const first = keys[0] as string
    try {
      return await face.send(first, false, 'EVALSHA', commandOf(this.#sha, keys, args))
    } catch (error) {
      if (!isUnknownScript(error)) throw error
      return face.send(first, false, 'EVAL', commandOf(this.source, keys, args))
    }
  }
}

function commandOf(script: string, keys: readonly string[], args: readonly string[]): string[] {
  return [script, String(keys.length), ...keys, ...args]
}

function isUnknownScript(error: unknown): boolean {
  return error instanceof Error && error.message.startsWith('NOSCRIPT')
}
