import { copyFileSync, mkdirSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

const root = fileURLToPath(new URL('../..', import.meta.url))

/**
 * Bundles programs for plain node: a process starts in a fraction of the time that tsx takes, and an edit meanwhile changes nothing.
 *
 * @param entries - the files of the programs, by name.
 * @param folder - where the bundles go: within the repository, where their dependencies are.
 * @param on - what they run on: the package's `sources` as they are now, or what is `built` of it, as it would be deployed.
 * @returns the bundles, by name.
 */
export async function bundleForNode<Name extends string>(
  entries: Readonly<Record<Name, string>>,
  folder: string,
  on: 'sources' | 'built',
): Promise<Readonly<Record<Name, string>>> {
  mkdirSync(folder, { recursive: true })
  const names = Object.keys(entries) as Name[]
  await build({
    absWorkingDir: root,
    entryPoints: names.map((name) => ({ in: entries[name], out: name })),
    outdir: folder,
    outExtension: { '.js': '.mjs' },
    bundle: true,
    splitting: true,
    packages: 'external',
    platform: 'node',
    format: 'esm',
    sourcemap: true,
    target: `node${process.versions.node}`,
    ...(on === 'sources' ? { tsconfig: join(root, 'tsconfig.check.json') } : { tsconfigRaw: {} }),
  })
  // The example's protocols look for them beside themselves.
  for (const proto of ['counter/counter.proto', 'billing/billing.proto']) {
    copyFileSync(join(root, 'examples/counter-billing', proto), join(folder, basename(proto)))
  }
  return Object.fromEntries(names.map((name) => [name, join(folder, `${name}.mjs`)])) as Record<Name, string>
}
