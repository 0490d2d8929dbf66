import { type ParseArgsConfig, parseArgs } from 'node:util'
import { type LoggingOptions, logLevels } from './logging.ts'
import type { StoresOptions } from './stores.ts'

type Flags = NonNullable<ParseArgsConfig['options']>
type Values<F extends Flags> = ReturnType<typeof parseArgs<{ options: F }>>['values']

/** A command line that can't be meant. */
export class UsageError extends Error {}

/** Reads the flags; on a wrong one, or on --help, prints what there is to say and ends the process. */
export function readFlags<F extends Flags, Options>(
  flags: F,
  help: string,
  check: (values: Values<F>) => Options,
): Options {
  try {
    const { values } = parseArgs({ args: process.argv.slice(2), options: { ...flags, help: { type: 'boolean' } } })
    if ((values as { help?: boolean }).help) {
      process.stdout.write(`${help}\n`)
      process.exit(0)
    }
    return check(values as Values<F>)
  } catch (error) {
    const { code, message } = error as { code?: string; message: string }
    if (!(error instanceof UsageError) && !code?.startsWith('ERR_PARSE_ARGS')) throw error
    // Node's second sentence explains how to escape a leading dash, which is never what is wrong here.
    process.stderr.write(`${message.split('. ')[0]}; --help lists the flags\n`)
    process.exit(2)
  }
}

/** A whole number within bounds. */
export function count(flag: string, value: string | undefined, min: number, max: number): number | undefined {
  if (value === undefined) return undefined
  const number = /^\d+$/.test(value) ? Number(value) : Number.NaN
  if (number >= min && number <= max) return number
  throw new UsageError(`--${flag} must be a whole number from ${min} to ${max}, got "${value}"`)
}

/** One of some words. */
export function oneOf<T extends string>(flag: string, value: string | undefined, allowed: readonly T[]): T | undefined {
  if (value === undefined) return undefined
  const found = allowed.find((word) => word === value)
  if (found !== undefined) return found
  throw new UsageError(`--${flag} must be one of ${allowed.join(', ')}, got "${value}"`)
}

/** One or several `host:port`, separated by commas. */
export function addresses(flag: string, value: string | undefined): string | undefined {
  const wrong = value?.split(',').find((address) => !/^[^:\s]+:\d{1,5}$|^\[[\da-fA-F:]+\]:\d{1,5}$/.test(address))
  if (wrong === undefined) return value
  throw new UsageError(`--${flag} must be host:port, or several separated by commas, got "${wrong}"`)
}

/** The Consul that the environment names, as a URL: Consul's own tools take it without a scheme, too. */
export function consulOf(): string | undefined {
  const address = process.env['CONSUL_HTTP_ADDR'] || undefined
  return address === undefined || address.includes('://') ? address : `http://${address}`
}

/** Where the environment has the log go, and how much of it. */
export function loggingOf(): Pick<LoggingOptions, 'file' | 'level'> {
  const level = process.env['LOG_LEVEL'] || undefined
  const found = logLevels.find((known) => known === level)
  if (level !== undefined && found === undefined) {
    throw new UsageError(`LOG_LEVEL must be one of ${logLevels.join(', ')}, got "${level}"`)
  }
  return { file: process.env['LOG_FILE'] || undefined, level: found }
}

/** Which servers the environment and the flags name. */
export function storesOf(dataDir: string | undefined): StoresOptions {
  const databaseUrl = process.env['DATABASE_URL'] || undefined
  const redisUrl = process.env['REDIS_URL'] || undefined
  if (databaseUrl !== undefined && dataDir !== undefined) {
    throw new UsageError('--data-dir is for PGlite, but DATABASE_URL names a server: take one of them away')
  }
  return { databaseUrl, redisUrl, dataDir, slowQueryMs: slowQueryMsOf(), cursorSecrets: cursorSecretsOf() }
}

const maxSlowQueryMs = 3_600_000

function slowQueryMsOf(): number | undefined {
  const value = process.env['SLOW_QUERY_MS'] || undefined
  if (value === undefined) return undefined
  if (/^\d{1,7}$/.test(value) && Number(value) <= maxSlowQueryMs) return Number(value)
  throw new UsageError(`SLOW_QUERY_MS must be a whole number from 0 to ${maxSlowQueryMs}, got "${value}"`)
}

const minSecretLength = 16

/** What is wrong is said without what was given: it is a secret. */
function cursorSecretsOf(): readonly string[] | undefined {
  const secrets = process.env['CURSOR_SECRET'] || undefined
  const all = secrets?.split(',')
  if (all === undefined || all.every((secret) => secret.length >= minSecretLength)) return all
  throw new UsageError(
    `CURSOR_SECRET must be a secret of at least ${minSecretLength} characters, or several separated by commas`,
  )
}

/** An error that ends a program, for people: the text alone, with what a failed connection hides in its parts. */
export function describe(error: unknown): string {
  const { message, errors, cause, code } = error as Error & { errors?: unknown[]; code?: string }
  const parts = (errors ?? []).map(describe).join(', ')
  const own = message || parts || code || String(error)
  return cause === undefined || own.includes(String((cause as Error).message)) ? own : `${own}: ${describe(cause)}`
}
