import { readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/** Files by their path from the root, with forward slashes, each with its text; what isn't text has none. */
export type FileTree = ReadonlyMap<string, string>

/** The folder that holds package.json. */
export const root: string = fileURLToPath(new URL('../../../', import.meta.url)).replace(/[\\/]$/, '')

const generated = new Set(['.git', '.cache', 'node_modules', 'dist', 'coverage', 'docs/api'])
const text = /\.(?:[cm]?[jt]sx?|json|md|ya?ml|css|html|sql|proto)$/

/** Reads what a clean clone holds. */
export function readTree(): FileTree {
  const files = new Map<string, string>()
  const read = (folder: string): void => {
    for (const entry of readdirSync(`${root}/${folder}`, { withFileTypes: true })) {
      const path = folder === '' ? entry.name : `${folder}/${entry.name}`
      if (generated.has(path) || generated.has(entry.name)) continue
      if (entry.isDirectory()) read(path)
      else if (entry.isFile()) files.set(path, text.test(path) ? readFileSync(`${root}/${path}`, 'utf8') : '')
    }
  }
  read('')
  return files
}

/** A tree that was written down in a test. */
export function treeOf(files: Readonly<Record<string, string>>): FileTree {
  return new Map(Object.entries(files))
}

/** The same tree with some files changed or added. */
export function withFiles(tree: FileTree, files: Readonly<Record<string, string>>): FileTree {
  return new Map([...tree, ...Object.entries(files)])
}

/** The text of a file that a check can't do without. */
export function textOf(tree: FileTree, path: string): string {
  const found = tree.get(path)
  if (found === undefined) throw new Error(`${path} is missing`)
  return found
}

/** The 1-based line of an offset. */
export function lineAt(source: string, offset: number): number {
  return source.slice(0, offset).split('\n').length
}
