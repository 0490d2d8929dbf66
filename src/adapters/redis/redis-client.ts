import { failOption } from '../../core/options.js'

/** A client of ioredis, version 5 or 6: `new Redis(…)` or `new Redis.Cluster(…)`. */
export interface IoredisClient {
  /** Whether it is a `Cluster`. */
  readonly isCluster: boolean
  /** How its connection is: `ready`, `connecting`, `end`. */
  readonly status: string
  /** Sends any command. */
  call(command: string, args: (string | number | Buffer)[]): Promise<unknown>
  /** Sends any command, and answers with the bytes of texts. Only RedisCacheStore needs it. */
  callBuffer?(command: string, args: (string | number | Buffer)[]): Promise<unknown>
}

/** A client of node-redis, version 5 or 6: `createClient(…)`. */
export interface NodeRedisClient {
  /** Whether `connect` was called and it wasn't closed since. */
  readonly isOpen: boolean
  /** Whether it can send commands at this moment. */
  readonly isReady: boolean
  /** Sends any command. */
  sendCommand(args: (string | Buffer)[], options?: { typeMapping?: Record<never, never> }): Promise<unknown>
}

/** A cluster client of node-redis, version 5 or 6: `createCluster(…)`. */
export interface NodeRedisCluster {
  /** Whether `connect` was called and it wasn't closed since. */
  readonly isOpen: boolean
  /** The nodes that own slots. */
  readonly masters: readonly unknown[]
  /** Sends any command to the node that owns a key. */
  sendCommand(
    firstKey: string,
    isReadonly: boolean,
    args: (string | Buffer)[],
    options?: { typeMapping?: Record<never, never> },
  ): Promise<unknown>
}

/** Any client that this adapter works with. It stays the caller's: it is never connected, closed or configured. */
export type RedisClient = IoredisClient | NodeRedisClient | NodeRedisCluster

/** What this adapter asks of a client, whatever its kind. */
export interface RedisFace {
  /** Whether keys lie on several nodes. */
  readonly cluster: boolean
  /** Whether nothing can be sent any more, or yet: a call now fails without having been sent. */
  readonly closed: boolean
  /**
   * Counts the client's connections. Where it has changed in the course of a call, the client may have sent that call twice.
   * Undefined where the client never does so, or doesn't tell.
   */
  readonly epoch: number | undefined
  /** Whether a command that only reads may go to a replica, which may not know yet what was written, whatever `readonly` says. */
  readonly readsReplicas: boolean
  /** Sends a command to the node of a key. */
  send(key: string, readonly: boolean, command: string, args: (string | Buffer)[]): Promise<unknown>
  /** Sends a command to the node of a key, and answers with the bytes of texts. */
  sendForBytes(key: string, readonly: boolean, command: string, args: (string | Buffer)[]): Promise<unknown>
}

/** Whatever the client maps types to, here a bulk string is a string and a number a number. */
const plainTypes = { typeMapping: {} }
/** The same, but a bulk string, whose sign in the protocol is `$`, is a Buffer. */
const byteTypes = { typeMapping: { 36: Buffer } }

/** Finds out what kind of client it got. Reads properties, sends nothing. */
export function redisFace(client: RedisClient): RedisFace {
  const shape = client as Partial<IoredisClient & NodeRedisClient & NodeRedisCluster> | null | undefined
  if (typeof shape === 'object' && shape !== null) {
    if (typeof shape.call === 'function' && typeof shape.isCluster === 'boolean' && !('isPipeline' in shape)) {
      checkKeyPrefix(client)
      return ioredisFace(client as IoredisClient)
    }
    // A sentinel client has sendCommand too, with other arguments.
    if (typeof shape.sendCommand === 'function' && typeof shape.isOpen === 'boolean' && !('getSentinelNode' in shape)) {
      if ('masters' in shape && 'nodeByAddress' in shape) return nodeRedisClusterFace(client as NodeRedisCluster)
      if (typeof shape.isReady === 'boolean') return nodeRedisFace(client as NodeRedisClient)
    }
  }
  return failOption('client', 'must be a client of ioredis or node-redis, single or cluster', client)
}

/** The same for whom answers come as bytes. */
export function byteFace(client: RedisClient): RedisFace {
  const face = redisFace(client)
  if ('call' in client) {
    const needed = pipelinesByItself(client) ? ['mgetBuffer', 'evalshaBuffer', 'evalBuffer'] : ['callBuffer']
    for (const method of needed) {
      if (typeof (client as unknown as Record<string, unknown>)[method] === 'function') continue
      failOption('client', `must have a method ${method}`, client)
    }
  }
  return face
}

function pipelinesByItself(client: IoredisClient): boolean {
  const { options } = client as { options?: { enableAutoPipelining?: unknown } }
  return Boolean(options?.enableAutoPipelining)
}

/** What a client of ioredis puts before each key: but not before a channel that a script publishes to. */
export function keyPrefixOf(client: RedisClient): string {
  const { keyPrefix } = (client as { options?: { keyPrefix?: unknown } }).options ?? {}
  return keyPrefix === undefined || keyPrefix === null ? '' : String(keyPrefix)
}

/** A prefix with a brace would take the place of our hash tags, and scatter what belongs together. */
function checkKeyPrefix(client: RedisClient): void {
  const { options } = client as { options?: { keyPrefix?: unknown } }
  const keyPrefix = options?.keyPrefix
  if (typeof keyPrefix === 'string' && /[{}]/.test(keyPrefix)) {
    failOption('client', 'must have a keyPrefix without braces', keyPrefix)
  }
}

function scalesReads(client: IoredisClient): boolean {
  const { options } = client as { options?: { scaleReads?: unknown } }
  return options?.scaleReads !== undefined && options.scaleReads !== 'master'
}

function ioredisFace(client: IoredisClient): RedisFace {
  return {
    cluster: client.isCluster,
    get closed() {
      return client.status === 'end'
    },
    get epoch() {
      return (client as { connectionEpoch?: number }).connectionEpoch
    },
    readsReplicas: client.isCluster && scalesReads(client),
    send: (_key, _readonly, command, args) => client.call(command, args),
    sendForBytes: bytesByIoredis(client),
  }
}

/**
 * With `enableAutoPipelining`, ioredis loses the name of a command on its way through `callBuffer`, and then throws where nobody can catch it:
 * there each command goes by its own method.
 */
function bytesByIoredis(client: IoredisClient): RedisFace['sendForBytes'] {
  if (pipelinesByItself(client)) {
    const methods = client as unknown as Record<string, (args: (string | Buffer)[]) => Promise<unknown>>
    return (_key, _readonly, command, args) => {
      const method = `${command.toLowerCase()}Buffer`
      return methods[method]?.(args) ?? failOption('client', `must have a method ${method}`, client)
    }
  }
  return (_key, _readonly, command, args) =>
    client.callBuffer?.(command, args) ?? failOption('client', 'must have a method callBuffer', client)
}

function nodeRedisFace(client: NodeRedisClient): RedisFace {
  return {
    cluster: false,
    get closed() {
      return !client.isOpen
    },
    epoch: undefined,
    readsReplicas: false,
    send: (_key, _readonly, command, args) => {
      args.unshift(command)
      return client.sendCommand(args, plainTypes)
    },
    sendForBytes: (_key, _readonly, command, args) => {
      args.unshift(command)
      return client.sendCommand(args, byteTypes)
    },
  }
}

function nodeRedisClusterFace(client: NodeRedisCluster): RedisFace {
  return {
    cluster: true,
    get closed() {
      return !client.isOpen
    },
    epoch: undefined,
    // Each call says whether it may go to a replica.
    readsReplicas: false,
    send: (key, readonly, command, args) => {
      args.unshift(command)
      return client.sendCommand(key, readonly, args, plainTypes)
    },
    sendForBytes: (key, readonly, command, args) => {
      args.unshift(command)
      return client.sendCommand(key, readonly, args, byteTypes)
    },
  }
}
