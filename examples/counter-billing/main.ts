import { closeOnExit } from 'spillway/process'
import { count, databaseOf, describe, readFlags } from './command-line.ts'
import { type Database, openDatabase } from './database.ts'
import { defaultHost, defaultPort, logToStderr, startService } from './service.ts'

const help = `The counter service.

  tsx --tsconfig tsconfig.check.json examples/counter-billing/main.ts [flags]

  --port N        where to listen, 0 is any free port (${defaultPort})
  --host NAME     on which address (${defaultHost})
  --data-dir DIR  where PGlite keeps its data (in memory only)
  --help          this text

The environment variable DATABASE_URL names a PostgreSQL server to use instead of PGlite.
SIGTERM or Ctrl-C writes what was accepted and ends it.`

const options = readFlags(
  { port: { type: 'string' }, host: { type: 'string' }, 'data-dir': { type: 'string' } },
  help,
  (values) => ({
    ports: [count('port', values.port, 0, 65_535) ?? defaultPort],
    host: values.host,
    database: databaseOf(values['data-dir']),
  }),
)

let database: Database | undefined
try {
  database = await openDatabase({ ...options.database, onError: (error) => logToStderr('warn', error.message) })
  const service = await startService({ ...options, database })
  closeOnExit([...service.parts, database])
  console.log(`counters at ${service.url}, stored in ${database.title}`)
} catch (error) {
  console.error(`the service can't start: ${describe(error)}`)
  process.exitCode = 1
  await database?.close()
}
