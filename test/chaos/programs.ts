import { copyFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

const root = fileURLToPath(new URL('../..', import.meta.url))

const entries = {
  service: 'examples/counter-billing/main.ts',
  load: 'test/chaos/load.ts',
  publisher: 'test/chaos/publisher.ts',
} as const

/** The files of the programs, by name. */
export type Programs = Readonly<Record<keyof typeof entries, string>>

/**
 * Bundles the programs with the package's sources as they are now, for plain node: a process that is killed is back in half a second, and
 * an edit meanwhile changes nothing. The folder must be within the repository, where their dependencies are.
 */
export async function bundlePrograms(folder: string): Promise<Programs> {
  await build({
    absWorkingDir: root,
    entryPoints: Object.entries(entries).map(([out, path]) => ({ in: path, out })),
    outdir: folder,
    outExtension: { '.js': '.mjs' },
    bundle: true,
    splitting: true,
    packages: 'external',
    platform: 'node',
    format: 'esm',
    sourcemap: true,
    target: `node${process.versions.node}`,
    tsconfig: join(root, 'tsconfig.check.json'),
  })
  for (const proto of ['counter.proto', 'billing/billing.proto']) {
    copyFileSync(join(root, 'examples/counter-billing', proto), join(folder, proto.split('/').at(-1) as string))
  }
  const pathOf = (name: string): string => join(folder, `${name}.mjs`)
  return { service: pathOf('service'), load: pathOf('load'), publisher: pathOf('publisher') }
}
