import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

const root = fileURLToPath(new URL('../../..', import.meta.url))

/** Makes one file of a script and of all that it imports, since a start through a loader would take a second. */
export async function bundleScript(script: URL, directory: string): Promise<string> {
  const outfile = join(directory, 'script.mjs')
  await build({
    entryPoints: [fileURLToPath(script)],
    tsconfig: join(root, 'tsconfig.check.json'),
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    logLevel: 'error',
  })
  return outfile
}
