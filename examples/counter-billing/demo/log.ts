import { mkdtempSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Database } from '../counter/database.ts'
import { createLogging, type Logging, type LoggingOptions } from '../telemetry/logging.ts'
import type { GatewayStats } from './details.ts'
import { ratio, row, tenths, whole } from './table.ts'

/** The log of the demo: where one is named, or in a directory that goes when the demo does. */
export interface DemoLog extends Logging {
  /** Where it is, for people. */
  readonly title: string
  /** The file of another process: no two of them write to one. */
  fileOf(process: string): string
}

export function createDemoLog({ file, ...options }: Omit<LoggingOptions, 'role'>): DemoLog {
  if (file !== undefined) {
    const logging = createLogging({ role: 'demo', file, ...options })
    return { ...logging, title: file, fileOf: (process) => `${file}.${process}` }
  }
  const folder = mkdtempSync(join(tmpdir(), 'counter-billing-'))
  const path = join(folder, 'demo.log')
  const logging = createLogging({ role: 'demo', file: path, ...options })
  const remove = { name: 'log directory', close: () => rm(folder, { recursive: true, force: true }) }
  const title = `${path}, which goes with the demo; LOG_FILE names one that stays`
  return { ...logging, title, parts: [...logging.parts, remove], fileOf: (process) => join(folder, `${process}.log`) }
}

/** Prints what became of the lines that the load made gateways write. */
export function printLog(
  gateways: readonly GatewayStats[],
  { title }: DemoLog,
  { slowQueries }: Pick<Database, 'slowQueries'>,
): void {
  console.log()
  row('log', 'lines', 'dropped', 'writes', 'mean size', 'MB')
  for (const { log } of gateways) {
    const { offered, succeeded, dropped, batches, writtenBytes } = log
    row(
      'gateway',
      whole(offered),
      whole(dropped),
      whole(batches),
      tenths(ratio(succeeded, batches)),
      tenths(writtenBytes / 1e6),
    )
  }
  const { offered, slow } = slowQueries.stats()
  console.log(`
  A line a request, which no request waits for: what comes while a write is under way is the next one.
  It is in ${title}.
  Of ${whole(offered)} queries ${whole(slow)} were slow: they are in it, and /metrics has all of this.`)
}
