import { existsSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'

const sources = ['src', 'package.json', 'tsconfig.json', 'tsup.config.ts']
const built = ['dist/index.js', 'dist/index.cjs', 'dist/index.d.ts']

/** Builds the package unless what is in `dist` is newer than all that it is made from. Returns whether it built. */
export async function buildIfStale(root: string): Promise<boolean> {
  const files = built.map((path) => join(root, path))
  const newestSource = Math.max(...sources.map((path) => newestChange(join(root, path))))
  if (files.every((file) => existsSync(file) && statSync(file).mtimeMs >= newestSource)) return false
  const { build } = await import('tsup')
  await build({ silent: true })
  return true
}

function newestChange(path: string): number {
  const stat = statSync(path)
  if (!stat.isDirectory()) return stat.mtimeMs
  // The folder's own time counts too: it changes when a file is taken away.
  return Math.max(stat.mtimeMs, ...readdirSync(path).map((name) => newestChange(join(path, name))))
}
