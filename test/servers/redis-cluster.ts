import { connect } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { freePort } from './free-port.ts'
import { noRedis, type OwnRedisServer, redisBinary, startRedis } from './redis.ts'

/** A real Redis Cluster for a test: masters without replicas. */
export interface RedisClusterServers {
  readonly nodes: readonly { readonly host: string; readonly port: number }[]
  /** Sends one command to one node, in the text protocol, and gives the raw answer. */
  command(node: number, ...args: string[]): Promise<string>
  /** Moves a slot with all of its keys from one node to another, as `redis-cli --cluster reshard` does. */
  moveSlot(slot: number, from: number, to: number): Promise<void>
  /** Ends all nodes and leaves nothing behind. */
  stop(): Promise<void>
}

const slots = 16_384
const formationMs = 30_000

/**
 * Three masters that share the slots.
 *
 * @returns undefined, after a line that says why, where there is no server to be had; in CI that is an error.
 */
export async function startRedisCluster(size = 3): Promise<RedisClusterServers | undefined> {
  if ((await redisBinary()) === undefined) return noRedis()
  const servers: OwnRedisServer[] = []
  const stop = async (): Promise<void> => {
    await Promise.all(servers.map((server) => server.stop()))
  }
  try {
    for (let i = 0; i < size; i++) {
      const server = await startRedis({
        own: true,
        settings: [
          ...['--cluster-enabled', 'yes', '--cluster-config-file', 'nodes.conf'],
          // Not the port plus 10000, which may be taken, or no port at all.
          ...['--cluster-port', String(await freePort())],
          ...['--cluster-node-timeout', '5000'],
        ],
      })
      if (server === undefined) throw new Error('the binary of Redis went away')
      servers.push(server)
    }
    await form(servers)
  } catch (error) {
    await stop()
    throw error
  }
  const at = (node: number): OwnRedisServer => servers[node] as OwnRedisServer
  return {
    nodes: servers.map(({ host, port }) => ({ host, port })),
    command: (node, ...args) => ask(at(node), ...args),
    moveSlot: (slot, from, to) => moveSlot(slot, at(from), at(to), servers),
    stop,
  }
}

async function form(servers: readonly OwnRedisServer[]): Promise<void> {
  const [first, ...others] = servers as [OwnRedisServer, ...OwnRedisServer[]]
  for (const [i, server] of servers.entries()) {
    await ask(server, 'CLUSTER', 'SET-CONFIG-EPOCH', String(i + 1))
    const from = Math.floor((i * slots) / servers.length)
    const to = Math.floor(((i + 1) * slots) / servers.length) - 1
    await ask(server, 'CLUSTER', 'ADDSLOTSRANGE', String(from), String(to))
  }
  const bus = Number((await ask(first, 'CLUSTER', 'NODES')).match(/@(\d+)/)?.[1])
  for (const other of others) await ask(other, 'CLUSTER', 'MEET', first.host, String(first.port), String(bus))
  const deadline = performance.now() + formationMs
  for (;;) {
    const states = await Promise.all(servers.map((server) => ask(server, 'CLUSTER', 'INFO')))
    if (states.every((text) => isFormed(text, servers.length))) return
    if (performance.now() > deadline) throw new Error(`the cluster doesn't form: ${states.join('\n')}`)
    await delay(50)
  }
}

function isFormed(info: string, size: number): boolean {
  return [`cluster_state:ok`, `cluster_slots_ok:${slots}`, `cluster_known_nodes:${size}`, `cluster_size:${size}`].every(
    (line) => info.includes(`${line}\r\n`),
  )
}

async function moveSlot(
  slot: number,
  from: OwnRedisServer,
  to: OwnRedisServer,
  all: readonly OwnRedisServer[],
): Promise<void> {
  const id = async (server: OwnRedisServer): Promise<string> => bulk(await ask(server, 'CLUSTER', 'MYID'))
  const [source, target] = [await id(from), await id(to)]
  await ask(to, 'CLUSTER', 'SETSLOT', String(slot), 'IMPORTING', source)
  await ask(from, 'CLUSTER', 'SETSLOT', String(slot), 'MIGRATING', target)
  for (;;) {
    const keys = (await ask(from, 'CLUSTER', 'GETKEYSINSLOT', String(slot), '100')).split('\r\n').filter(isElement)
    if (keys.length === 0) break
    await ask(from, 'MIGRATE', to.host, String(to.port), '', '0', '5000', 'KEYS', ...keys)
  }
  for (const server of [to, from, ...all.filter((other) => other !== to && other !== from)]) {
    await ask(server, 'CLUSTER', 'SETSLOT', String(slot), 'NODE', target)
  }
}

function isElement(line: string): boolean {
  return line !== '' && !/^[*$]\d+$/.test(line)
}

function bulk(answer: string): string {
  return answer.split('\r\n')[1] ?? ''
}

/** One command on a connection of its own. Its end is told by QUIT's answer. */
function ask(server: OwnRedisServer, ...args: string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(server.port, server.host)
    let text = ''
    socket.setTimeout(10_000, () => socket.destroy(new Error(`${args.join(' ')}: no answer`)))
    socket.once('error', reject)
    socket.on('data', (chunk) => {
      text += chunk.toString('utf8')
    })
    socket.once('close', () => {
      const answer = text.replace(/\+OK\r\n$/, '')
      if (answer.startsWith('-')) reject(new Error(`${args.join(' ')}: ${answer.trim()}`))
      else resolve(answer)
    })
    const words = args.map((arg) => `$${Buffer.byteLength(arg)}\r\n${arg}\r\n`).join('')
    socket.write(`*${args.length}\r\n${words}*1\r\n$4\r\nQUIT\r\n`)
  })
}
