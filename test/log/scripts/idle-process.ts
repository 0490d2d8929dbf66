// A process with a thousand log buffers, one of which was used and none closed, that has nothing more to do.
import { AsyncLogBuffer } from 'spillway'

const buffers = Array.from(
  { length: 1000 },
  () =>
    new AsyncLogBuffer({ write: async (chunk) => void process.stdout.write(chunk) }, { eager: false, maxWaitMs: 50 }),
)
buffers[500]?.write('written behind the end of the script')
console.log('done')
