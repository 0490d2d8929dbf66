// The root entry of the built package on whatever runtime runs this. Needs `npm run build` first.
import * as spillway from 'spillway'
import { exercise } from './exercise.mjs'

const runtime = globalThis.Bun === undefined ? `node ${process.version}` : `bun ${globalThis.Bun.version}`
process.on('warning', (warning) => {
  console.error(warning)
  process.exitCode = 1
})
console.log(`${runtime}: ${await exercise(spillway)}`)
