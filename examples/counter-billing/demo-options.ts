import { clientSecrets } from './auth/environment.ts'
import { authModes } from './auth/http-guard.ts'
import { count, loggingOf, oneOf, readFlags, storesOf, UsageError } from './command-line.ts'
import { acknowledgements } from './counters.ts'
import { defaultAcknowledgement, defaultPort } from './service.ts'

/** Tokens are short-lived, so that some are replaced while one looks on. */
const defaults = { seconds: 8, connections: 50, tokenLifeSeconds: 5 }
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
  --instances N    run N counter services in processes of their own, 2 to ${maxInstances}, and kill one in mid-load
  --usage NAME     how gateways hand usage on: billing, to the billing service; stream, through Redis Streams, between ${streamProcesses} gateways
                   and ${streamProcesses} usage workers in processes of their own (billing)
  --ack NAME       when an increment is answered: ${acknowledgements.join(', ')} (${defaultAcknowledgement}; committed with --instances)
  --auth NAME      whether callers of the gateway must have a token: ${authModes.join(', ')} (optional; the load has them either way)
  --token-life N   how long a token is valid, in seconds (${defaults.tokenLifeSeconds})
  --port N         where to listen, 0 is any free port (${defaultPort}, or the next free one); with --usage stream, free ones are taken
  --serve          stay up until Ctrl-C, and print a request to try; there is a load only if --seconds is given too
  --data-dir DIR   where PGlite keeps its data (in memory only)
  --help           this text

Live values are in memory, durable ones and money in PGlite, a PostgreSQL inside the process; --usage stream starts a Redis of its own.
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
      ack: { type: 'string' },
      auth: { type: 'string' },
      'token-life': { type: 'string' },
      port: { type: 'string' },
      serve: { type: 'boolean' },
      'data-dir': { type: 'string' },
    },
    help,
    (values) => {
      const seconds = count('seconds', values.seconds, 1, 600)
      const serve = values.serve ?? false
      return {
        seconds: seconds ?? defaults.seconds,
        connections: count('connections', values.connections, 1, 1_000) ?? defaults.connections,
        instances: count('instances', values.instances, 2, maxInstances),
        usage: oneOf('usage', values.usage, ['billing', 'stream']) ?? 'billing',
        acknowledgement:
          oneOf('ack', values.ack, acknowledgements) ??
          (values.instances === undefined ? defaultAcknowledgement : 'committed'),
        mode: oneOf('auth', values.auth, authModes) ?? 'optional',
        tokenLifeSeconds: count('token-life', values['token-life'], 1, 86_400) ?? defaults.tokenLifeSeconds,
        port: portOf(values.port, values.usage),
        serve,
        /** Who serves without saying how long a load is to last wants none. */
        load: !serve || seconds !== undefined,
        stores: storesOf(values['data-dir']),
        secrets: clientSecrets(undefined),
        logTo: loggingOf(),
      }
    },
  )
}

/** Two gateways can't have one port. */
function portOf(port: string | undefined, usage: string | undefined): number | undefined {
  if (port === undefined || usage !== 'stream') return count('port', port, 0, 65_535)
  throw new UsageError('--port is for one gateway, but --usage stream starts two, each on a free port')
}
