import { writeFileSync } from 'node:fs'
import { closeOnExit } from 'spillway/process'
import { describe } from '../command-line.ts'
import { dashboardPath } from '../dashboard/dashboard.ts'
import { drive } from './load.ts'
import { readDemoOptions } from './options.ts'
import { DemoParts, type DemoServices, startTogether } from './parts.ts'
import { startApart } from './processes.ts'
import { printed, styled } from './progress.ts'
import { figuresOf, printReport } from './report.ts'
import { printRequestToTry } from './requests.ts'

/** How long Ctrl-C may take: what was accepted is written, and the report is of all until then. */
const closeMs = 45_000

const options = readDemoOptions()
const interrupted = new AbortController()
const parts = new DemoParts(options, interrupted.signal)
const finished = run()

// From the start on, whatever is open by then: the load ends, the report is printed, and what was opened is closed.
closeOnExit(
  [
    {
      name: 'demo',
      close: async () => {
        interrupted.abort()
        await finished
        await parts.close({ timeoutMs: closeMs / 2 })
      },
    },
  ],
  { timeoutMs: closeMs },
)

async function run(): Promise<void> {
  try {
    process.exitCode = (await demo()) ? 0 : 1
    if (!options.serve) await parts.close()
  } catch (error) {
    // Who interrupts the start knows why it failed.
    if (!interrupted.signal.aborted) printed(`the demo failed: ${describe(error)}`, console.error)
    process.exitCode = 1
    await parts.close()
  }
}

async function demo(): Promise<boolean> {
  await parts.logging.open()
  const services = await (options.processes ? startApart(parts) : startTogether(parts))
  if (interrupted.signal.aborted) return true
  printPlaces(services)
  const passed = options.load ? await driven(services) : true
  if (options.serve && !interrupted.signal.aborted) {
    const [url] = services.urls
    console.log(`\n${styled('bold', 'Dashboard')}  ${styled('cyan', `${url}${dashboardPath}`)}`)
    printRequestToTry(services.urls, services.auth, options.mode)
  }
  return passed
}

/** Drives the load, and tells whether all is as it should be. */
async function driven(services: DemoServices): Promise<boolean> {
  const result = await drive(parts, services, interrupted.signal)
  const passed = printReport(result)
  if (options.json !== undefined) writeFileSync(options.json, JSON.stringify(figuresOf(result), undefined, 2))
  return passed
}

function printPlaces({ places }: DemoServices): void {
  const all = places()
  const width = Math.max(...all.map(([part]) => part.length)) + 2
  for (const [part, place] of all) console.log(`  ${styled('dim', part.padEnd(width))}${place}`)
}
