import { type Closable, closeOnExit } from 'spillway/process'
import { count, describe, oneOf, readFlags, storesOf } from './command-line.ts'
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
import { openStores } from './stores.ts'

const roles = ['all', 'gateway', 'counters'] as const

const help = `The gateway and the counter service.

  tsx --tsconfig tsconfig.check.json examples/counter-billing/main.ts [flags]

  --role NAME         gateway: HTTP in front of a counter service; counters: gRPC in front of the stores; all: both (all)
  --ack NAME          when an increment is answered that doesn't say: ${acknowledgements.join(', ')} (${defaultAcknowledgement})
  --port N            where the gateway listens, 0 is any free port (${defaultPort})
  --grpc-port N       where the counter service listens, 0 is any free port (${defaultGrpcPort})
  --counters ADDRESS  host:port of the counter service, for a gateway alone (${defaultHost}:${defaultGrpcPort})
  --channels N        how many connections a gateway holds to it (2)
  --host NAME         on which address to listen (${defaultHost})
  --data-dir DIR      where PGlite keeps its data (in memory only)
  --help              this text

REDIS_URL names a Redis server for the live values, DATABASE_URL a PostgreSQL server for the durable ones; without them they are
in memory and in PGlite. SIGTERM or Ctrl-C writes what was accepted and ends it.`

const options = readFlags(
  {
    role: { type: 'string' },
    ack: { type: 'string' },
    port: { type: 'string' },
    'grpc-port': { type: 'string' },
    counters: { type: 'string' },
    channels: { type: 'string' },
    host: { type: 'string' },
    'data-dir': { type: 'string' },
  },
  help,
  (values) => ({
    role: oneOf('role', values.role, roles) ?? 'all',
    acknowledgement: oneOf('ack', values.ack, acknowledgements),
    ports: [count('port', values.port, 0, 65_535) ?? defaultPort],
    grpcPort: count('grpc-port', values['grpc-port'], 0, 65_535),
    address: values.counters ?? `${defaultHost}:${defaultGrpcPort}`,
    channels: count('channels', values.channels, 1, 20),
    host: values.host,
    stores: storesOf(values['data-dir']),
  }),
)

/** What is open, in the order in which to close it. */
const open: Closable[] = []

try {
  const { role, channels } = options
  let { address } = options
  let ready = address
  if (role !== 'gateway') {
    const stores = await openStores({ ...options.stores, onError: (error) => logToStderr('warn', error.message) })
    open.unshift({ name: 'stores', close: () => stores.close() })
    const service = await startCounterService({ ...stores, ...options, port: options.grpcPort })
    open.unshift(...service.parts)
    address = service.address
    ready = address
    console.log(`counter service at ${address}, on ${stores.title}`)
  }
  if (role !== 'counters') {
    const gateway = await startGateway({ ...options, counters: { address, channels } })
    open.unshift(...gateway.parts)
    ready = gateway.url
    console.log(`gateway at ${gateway.url}, counters at ${address}`)
  }
  closeOnExit(open)
  // A parent that started it with a channel learns that it is ready, and where.
  process.send?.({ type: 'ready', url: ready })
} catch (error) {
  console.error(`the service can't start: ${describe(error)}`)
  process.exitCode = 1
  for (const part of open) await part.close()
}
