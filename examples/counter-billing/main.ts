import { closeOnExit } from 'spillway/process'
import { authModes } from './auth/http-guard.ts'
import { defaultAuthPort, defaultTokenLifeSeconds } from './auth/service.ts'
import { defaultBillingPort } from './billing/service.ts'
import { defaultTariff } from './billing/tariff.ts'
import { describe, oneOf, readFlags } from './command-line.ts'
import { readConfig } from './config/config.ts'
import { configFlags } from './config/flags.ts'
import { presetNames } from './config/presets.ts'
import { configText } from './config/print-config.ts'
import { acknowledgements } from './counter/counters.ts'
import { Program, roles } from './program.ts'
import { closeAll, defaultHost } from './running.ts'
import { defaultAcknowledgement, defaultGrpcPort, defaultPort } from './service.ts'

const help = `The gateway, the counter service, the billing service and the auth service.

  node --import ./examples/tsx.mjs examples/counter-billing/main.ts [flags]

  --role NAME         gateway: HTTP in front of the services; counters, billing: gRPC in front of the stores; usage-worker: accounts
                      what gateways publish with --usage stream; auth: issues tokens; all: auth, gateway, counters and billing (all)
  --config FILE       a JSON file, comments allowed, with all that can be configured (README, "Configuration")
  --preset NAME       values that go together: ${presetNames.join(', ')} (default)
  --print-config      prints what the service would be like, each value with who says so, and ends
  --ack NAME          when an increment is answered that doesn't say: ${acknowledgements.join(', ')} (${defaultAcknowledgement})
  --port N            where the gateway listens, 0 is any free port (${defaultPort})
  --grpc-port N       where the counter service listens, 0 is any free port (${defaultGrpcPort})
  --billing-port N    where the billing service listens, 0 is any free port (${defaultBillingPort})
  --auth NAME         whether callers of the gateway must have a token, where there is an auth service: ${authModes.join(', ')} (optional)
  --auth-port N       where the auth service listens, 0 is any free port (${defaultAuthPort}; any free one with --role all)
  --token-life N      how long a token is valid, in seconds (${defaultTokenLifeSeconds})
  --secrets FILE      the secrets of the clients of the auth service, a JSON file of which each has at least 16 characters
                      (AUTH_CLIENT_SECRETS, the same as text; with --role all, random ones that nobody is told)
  --counters LIST     host:port of the counter services, separated by commas, for a gateway alone: it balances over them
                      (those that Consul knows, else ${defaultHost}:${defaultGrpcPort})
  --billing LIST      the same of the billing services, or "consul" for those that Consul knows; without it, a gateway alone has none
  --usage NAME        how a gateway hands usage on: billing, to the billing services; stream, through Redis to usage workers (billing)
  --journal DIR       where a gateway keeps usage until it is handed on; a crash loses some milliseconds of it (in memory)
  --tariff FILE       a JSON file with what services cost (${[...defaultTariff.keys()].join(', ')})
  --channels N        how many connections a gateway holds to each service (2)
  --stores ADDRESS    host:port of a counter service whose stores to use, for a counter service without its own
  --with-parent       ends when the process that started it does, or closes the channel to it, and leaves signals to that one
  --metrics-port N    where /metrics is answered to this machine, which a gateway also does at its own port, 0 is any free port (nowhere)
  --host NAME         on which address to listen (${defaultHost})
  --data-dir DIR      where PGlite keeps its data (in memory only)
  --help              this text

REDIS_URL names a Redis server for the live values and the stream, DATABASE_URL a PostgreSQL server for the durable values and for
billing; without them they are in memory and in PGlite. AUTH_URL names an auth service: services and gateways then take its tokens,
and AUTH_CLIENT_SECRET is what a gateway gets its own with. Without it, nobody has tokens. AUTH_ISSUER is who its tokens say that they
are from, for itself and all others alike, where that isn't the AUTH_URL: it listens elsewhere than where it is called. CONSUL_HTTP_ADDR
names a Consul, where services register and gateways find them. LOG_FILE names a file for the log, which has each request then; without
it, what people must know goes to stderr. All that can be configured has a variable: COUNTER_BILLING_ASYNC_MAX_BATCH_SIZE is
async.maxBatchSize. Flags win over variables, those over the file, the file over the preset. SIGTERM or Ctrl-C writes what was accepted
and ends it.`

const flags = {
  ...configFlags,
  role: { type: 'string' },
  'print-config': { type: 'boolean' },
  'with-parent': { type: 'boolean' },
} as const

const options = readFlags(flags, help, (values) => ({
  role: oneOf('role', values.role, roles) ?? 'all',
  config: readConfig({ flags: values }),
  printConfig: values['print-config'] ?? false,
  withParent: values['with-parent'] ?? false,
}))

const { values } = options.config
if (options.printConfig) console.log(configText(options.config))
else await run()

async function run(): Promise<void> {
  const program = new Program({ role: options.role, values, say: (message) => console.log(message) })
  const { open } = program
  try {
    const ready = await program.start()
    if (options.withParent) endWithParent(program)
    else closeOnExit(open, program.closeOptions)
    // A parent that started it with a channel learns that it is ready, and where.
    if (process.connected) process.send?.({ type: 'ready', url: ready })
  } catch (error) {
    console.error(`the service can't start: ${describe(error)}`)
    process.exitCode = 1
    await closeAll(open)
  }
}

/**
 * Ctrl-C, and a supervisor's SIGTERM, reach the parent too, which has accepted increments yet to be written here: it closes the
 * channel when nothing more is to come.
 */
function endWithParent({ open, closeOptions }: Program): void {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => undefined)
  closeOnExit(open, { ...closeOptions, signals: ['SIGHUP'] })
  const end = (): void => void process.kill(process.pid, 'SIGHUP')
  if (process.connected) process.once('disconnect', end).channel?.unref()
  // The parent went while this one was starting.
  else end()
}
