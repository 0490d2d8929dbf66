import { type Closable, closeOnExit } from 'spillway/process'
import { addresses, consulOf, count, describe, oneOf, readFlags, storesOf } from './command-line.ts'
import { connectToCounterServices } from './counter-services.ts'
import { acknowledgements } from './counters.ts'
import {
  defaultAcknowledgement,
  defaultGrpcPort,
  defaultHost,
  defaultPort,
  logToStderr,
  startCounterService,
  startGateway,
} from './service.ts'
import { type CounterStores, openStores } from './stores.ts'

const roles = ['all', 'gateway', 'counters'] as const

const help = `The gateway and the counter service.

  tsx --tsconfig tsconfig.check.json examples/counter-billing/main.ts [flags]

  --role NAME         gateway: HTTP in front of a counter service; counters: gRPC in front of the stores; all: both (all)
  --ack NAME          when an increment is answered that doesn't say: ${acknowledgements.join(', ')} (${defaultAcknowledgement})
  --port N            where the gateway listens, 0 is any free port (${defaultPort})
  --grpc-port N       where the counter service listens, 0 is any free port (${defaultGrpcPort})
  --counters LIST     host:port of the counter services, separated by commas, for a gateway alone: it balances over them
                      (those that Consul knows, else ${defaultHost}:${defaultGrpcPort})
  --channels N        how many connections a gateway holds to each of them (2)
  --stores ADDRESS    host:port of a counter service whose stores to use, for a counter service without its own
  --with-parent       ends when the process that started it does, or closes the channel to it, and leaves signals to that one
  --host NAME         on which address to listen (${defaultHost})
  --data-dir DIR      where PGlite keeps its data (in memory only)
  --help              this text

REDIS_URL names a Redis server for the live values, DATABASE_URL a PostgreSQL server for the durable ones; without them they are
in memory and in PGlite. CONSUL_HTTP_ADDR names a Consul, where counter services register and gateways find them. SIGTERM or Ctrl-C writes what was accepted and ends it.`

const options = readFlags(
  {
    role: { type: 'string' },
    ack: { type: 'string' },
    port: { type: 'string' },
    'grpc-port': { type: 'string' },
    counters: { type: 'string' },
    channels: { type: 'string' },
    stores: { type: 'string' },
    'with-parent': { type: 'boolean' },
    host: { type: 'string' },
    'data-dir': { type: 'string' },
  },
  help,
  (values) => ({
    role: oneOf('role', values.role, roles) ?? 'all',
    acknowledgement: oneOf('ack', values.ack, acknowledgements),
    ports: [count('port', values.port, 0, 65_535) ?? defaultPort],
    grpcPort: count('grpc-port', values['grpc-port'], 0, 65_535),
    addresses: addresses('counters', values.counters),
    channels: count('channels', values.channels, 1, 20),
    host: values.host,
    stores: storesOf(values['data-dir']),
    storesAt: addresses('stores', values.stores),
    consul: consulOf(),
    withParent: values['with-parent'] ?? false,
  }),
)

/** What is open, in the order in which to close it. */
const open: Closable[] = []

try {
  const { role, channels, consul } = options
  let at = options.addresses ?? (consul === undefined ? `${defaultHost}:${defaultGrpcPort}` : { consul })
  let ready = ''
  if (role !== 'gateway') {
    const stores = await storesToUse()
    open.unshift({ name: 'stores', close: () => stores.close() })
    const service = await startCounterService({ ...stores, ...options, port: options.grpcPort })
    open.unshift(...service.parts)
    at = service.address
    ready = at
    console.log(`counter service at ${at}, on ${stores.title}`)
  }
  if (role !== 'counters') {
    const gateway = await startGateway({ ...options, counters: { at, channels } })
    open.unshift(...gateway.parts)
    ready = gateway.url
    console.log(
      `gateway at ${gateway.url}, counters at ${typeof at === 'string' ? at : `those of Consul, ${at.consul}`}`,
    )
  }
  if (options.withParent) endWithParent()
  else closeOnExit(open)
  // A parent that started it with a channel learns that it is ready, and where.
  if (process.connected) process.send?.({ type: 'ready', url: ready })
} catch (error) {
  console.error(`the service can't start: ${describe(error)}`)
  process.exitCode = 1
  for (const part of open) await part.close()
}

/**
 * Ctrl-C, and a supervisor's SIGTERM, reach the parent too, which has accepted increments yet to be written here: it closes the
 * channel when nothing more is to come.
 */
function endWithParent(): void {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => undefined)
  closeOnExit(open, { signals: ['SIGHUP'] })
  const end = (): void => void process.kill(process.pid, 'SIGHUP')
  if (process.connected) process.once('disconnect', end).channel?.unref()
  // The parent went while this one was starting.
  else end()
}

/** Its own stores, or those of another counter service. */
async function storesToUse(): Promise<CounterStores> {
  const { storesAt } = options
  if (storesAt === undefined) {
    return openStores({ ...options.stores, onError: (error) => logToStderr('warn', error.message) })
  }
  const { live, durable, parts } = await connectToCounterServices({ at: storesAt, log: logToStderr })
  const close = async (): Promise<void> => {
    for (const part of parts) await part.close()
  }
  return { live, durable, title: `the stores of ${storesAt}`, close }
}
