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
  run(face: RedisFace, keys: readonly string[], args: readonly ScriptArgument[]): Promise<unknown> {
    const first = keys[0] as string
    return this.#run(keys, args, (command, sent) => face.send(first, false, command, sent))
  }

  /** Runs it, and answers with the bytes of texts. */
  runForBytes(face: RedisFace, keys: readonly string[], args: readonly ScriptArgument[]): Promise<unknown> {
    const first = keys[0] as string
    return this.#run(keys, args, (command, sent) => face.sendForBytes(first, false, command, sent))
  }

  async #run(
    keys: readonly string[],
    args: readonly ScriptArgument[],
    send: (command: string, args: ScriptArgument[]) => Promise<unknown>,
  ): Promise<unknown> {
    try {
      return await send('EVALSHA', commandOf(this.#sha, keys, args))
    } catch (error) {
      if (!isUnknownScript(error)) throw error
      return send('EVAL', commandOf(this.source, keys, args))
    }
  }
}

/** What a script is given beside keys. */
export type ScriptArgument = string | Buffer

function commandOf(script: string, keys: readonly string[], args: readonly ScriptArgument[]): ScriptArgument[] {
  return [script, String(keys.length), ...keys, ...args]
}

function isUnknownScript(error: unknown): boolean {
  return error instanceof Error && error.message.startsWith('NOSCRIPT')
}
