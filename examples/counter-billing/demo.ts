import { closeOnExit } from 'spillway/process'
import { describe } from './command-line.ts'
import { drive } from './demo-load.ts'
import { type DemoOptions, readDemoOptions, streamProcesses } from './demo-options.ts'
import { DemoParts, type DemoServices } from './demo-parts.ts'
import { printRequestToTry } from './demo-requests.ts'

/** What an acknowledgement says, in words. */
const answered = { accepted: 'accepted', redis: 'in the live store', committed: 'committed' }

const options = readDemoOptions()
const parts = new DemoParts(options)

try {
  process.exitCode = (await demo()) ? 0 : 1
  if (!options.serve) await parts.close()
} catch (error) {
  console.error(`the demo failed: ${describe(error)}`)
  process.exitCode = 1
  await parts.close()
}

async function demo(): Promise<boolean> {
  const services = await parts.start()
  closeOnExit(parts.open)
  printServices(services, options)
  const passed = options.load ? await drive(options, parts, services) : true
  if (options.serve) printRequestToTry(services.urls, services.auth, options.mode)
  return passed
}

function printServices(
  { fleet, counters, stores, billing, auth, urls, quotaTitle }: DemoServices,
  { acknowledgement, tokenLifeSeconds, mode, usage }: DemoOptions,
): void {
  const where =
    fleet.length === 0
      ? `The counter service listens for gRPC at ${counters},`
      : `${fleet.length} counter services, each in a process of its own, listen for gRPC at ${counters},`
  console.log(`${where} and stores in ${stores.title}.
The billing service listens for gRPC at ${billing}, has money in ${stores.database.title}, and counts uses in ${quotaTitle}.
The auth service issues tokens at ${auth}, valid for ${tokenLifeSeconds} s; services take calls with one only, and the gateway ${mode === 'required' ? 'too' : 'some without, too'}.
The gateway listens for HTTP at ${urls.join(' and ')}, and answers an increment once it is ${answered[acknowledgement]}.`)
  if (usage === 'stream') {
    console.log(`The gateways publish usage in Redis Streams, and ${streamProcesses} usage workers account it.`)
  }
}
