import { dirname } from 'node:path'
import ts from 'typescript'
import { type FileTree, root } from './file-tree.js'

/** Files that are the same in every program: the libraries, and what lies in node_modules. */
const libraries = new Map<string, ts.SourceFile | undefined>()

/**
 * A TypeScript program over a tree, with the settings of `tsconfig.check.json`, in which `spillway` and its sub-paths mean
 * src. What the tree doesn't hold is read from the disk.
 *
 * @param extra - files that only this program has, by their path from the root; all of them are compiled.
 * @param paths - further files to compile.
 */
export function programOf(
  tree: FileTree,
  extra: ReadonlyMap<string, string>,
  paths: readonly string[] = [],
): ts.Program {
  const { options } = ts.parseJsonConfigFileContent(
    ts.readConfigFile(`${root}/tsconfig.check.json`, ts.sys.readFile).config,
    { ...ts.sys, readDirectory: () => [] },
    root,
  )
  const host = ts.createCompilerHost(options, true)
  const { fileExists, readFile, getSourceFile, directoryExists } = host
  const held = (path: string): string | undefined => {
    if (!path.startsWith(`${root}/`)) return undefined
    const relative = path.slice(root.length + 1)
    return extra.get(relative) ?? tree.get(relative)
  }
  const folders = new Set([...tree.keys(), ...extra.keys()].map((path) => dirname(`${root}/${path}`)))
  host.fileExists = (path) => held(path) !== undefined || fileExists(path)
  host.readFile = (path) => held(path) ?? readFile(path)
  host.directoryExists = (path) => folders.has(path) || directoryExists?.(path) === true
  host.getSourceFile = (path, version, ...rest) => {
    const text = held(path)
    if (text !== undefined) return ts.createSourceFile(path, text, version, true)
    if (!path.includes('/node_modules/')) return getSourceFile(path, version, ...rest)
    if (!libraries.has(path)) libraries.set(path, getSourceFile(path, version, ...rest))
    return libraries.get(path)
  }
  const rootNames = [...extra.keys(), ...paths].map((path) => `${root}/${path}`)
  return ts.createProgram({ rootNames, options, host })
}
