// Writes to a stderr that nobody reads any more, when told to: an uncaught exception.
import { appendFileSync } from 'node:fs'
import { closeOnExit } from 'spillway/process'

const [file = ''] = process.argv.slice(2)
closeOnExit([{ close: async () => appendFileSync(file, 'closed') }])
setInterval(() => undefined, 1000)
// Not by the console, which may keep the error of its stream to itself.
process.once('SIGUSR2', () => process.stderr.write('is anybody there?'))
process.stdout.write('ready')
