// Compares the presets under the load of the demo: node --import ./examples/tsx.mjs examples/counter-billing/demo/presets.ts
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { count, oneOf, readFlags } from '../command-line.ts'
import { type PresetName, presetNames } from '../config/presets.ts'
import { acknowledgements } from '../counter/counters.ts'
import type { DemoFigures } from './report.ts'
import { ratio, row, tenths } from './table.ts'

const defaults = { seconds: 4, rounds: 3, connections: 50 }

const help = `Runs the demo with each preset in turn, and prints what they gain and cost beside the defaults: medians of the rounds, as ratios.

  node --import ./examples/tsx.mjs examples/counter-billing/demo/presets.ts [flags]

  --seconds N      how long each load lasts, 1 to 60 (${defaults.seconds})
  --rounds N       how often each preset has its turn, 1 to 20 (${defaults.rounds})
  --connections N  how many clients send at the same time, 1 to 1000 (${defaults.connections})
  --ack NAME       when an increment is answered: ${acknowledgements.join(', ')} (accepted)
  --help           this text

REDIS_URL and DATABASE_URL name servers, as for the demo.
Ends with 0, with 1 when the sums of a run were not equal, or with 2 when a flag is wrong.`

const options = readFlags(
  {
    seconds: { type: 'string' },
    rounds: { type: 'string' },
    connections: { type: 'string' },
    ack: { type: 'string' },
  },
  help,
  (values) => ({
    seconds: count('seconds', values.seconds, 1, 60) ?? defaults.seconds,
    rounds: count('rounds', values.rounds, 1, 20) ?? defaults.rounds,
    connections: count('connections', values.connections, 1, 1_000) ?? defaults.connections,
    ack: oneOf('ack', values.ack, acknowledgements) ?? 'accepted',
  }),
)

const columns = [
  ['requests/s', ({ requestsPerSecond }: DemoFigures) => requestsPerSecond],
  ['p50', ({ p50 }: DemoFigures) => p50],
  ['p99', ({ p99 }: DemoFigures) => p99],
  ['per stmt', ({ incrementsPerStatement }: DemoFigures) => incrementsPerStatement],
  ['durable', ({ durableMs }: DemoFigures) => durableMs],
  ['accounted', ({ accountedMs }: DemoFigures) => accountedMs],
  ['from L1', ({ l1Share }: DemoFigures) => l1Share],
] as const

const folder = mkdtempSync(join(tmpdir(), 'counter-billing-presets-'))
try {
  const figures = new Map<PresetName, DemoFigures[]>(presetNames.map((name) => [name, []]))
  for (let round = 1; round <= options.rounds; round++) {
    for (const name of presetNames) {
      process.stderr.write(`round ${round} of ${options.rounds}, ${name}\n`)
      figures.get(name)?.push(await run(name))
    }
  }
  print(figures)
  process.exitCode = [...figures.values()].flat().every(({ isPassed }) => isPassed) ? 0 : 1
} finally {
  rmSync(folder, { recursive: true })
}

async function run(preset: PresetName): Promise<DemoFigures> {
  const file = join(folder, 'figures.json')
  const { seconds, connections, ack } = options
  const flags = ['--preset', preset, '--seconds', String(seconds), '--connections', String(connections), '--ack', ack]
  const program = fileURLToPath(new URL('./demo.ts', import.meta.url))
  // No channel to it: the programs that it starts itself are told by theirs that they are.
  const args = [...process.execArgv, program, ...flags, '--port', '0', '--json', file]
  const demo = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'inherit'] })
  await once(demo, 'exit')
  return JSON.parse(readFileSync(file, 'utf8')) as DemoFigures
}

function print(figures: ReadonlyMap<PresetName, readonly DemoFigures[]>): void {
  const { ack, rounds, seconds, connections } = options
  const medians = (name: PresetName): number[] => columns.map(([, of]) => median((figures.get(name) ?? []).map(of)))
  const usual = medians('default')
  console.log(
    `\nincrements answered when ${ack}, ${connections} connections, medians of ${rounds} rounds of ${seconds} s\n`,
  )
  row('', ...columns.map(([title]) => title))
  row('default', ...usual.map(tenths))
  for (const name of presetNames.filter((name) => name !== 'default')) {
    const own = medians(name)
    row(name.replace('high-', ''), ...own.map(tenths))
    row('  x default', ...own.map((value, index) => ratio(value, usual[index] ?? 0).toFixed(2)))
  }
  console.log(`
  Times are in milliseconds: until half of what was accepted is durable, and half of the uses accounted. Per stmt is how many
  increments a statement of the durable store had.`)
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[sorted.length >> 1] ?? 0
}
