// The same by require. Needs `npm run build` first.
const spillway = require('spillway')

const runtime = globalThis.Bun === undefined ? `node ${process.version}` : `bun ${globalThis.Bun.version}`
import('./exercise.mjs')
  .then(async ({ exercise }) => console.log(`${runtime}, by require: ${await exercise(spillway)}`))
  .catch((error) => {
    console.error(error)
    process.exitCode = 1
  })
