import { isBuiltin } from 'node:module'
import { posix } from 'node:path'
import ts from 'typescript'
import type { FileTree } from './file-tree.js'

/** Which primitives may lean on which others. */
const primitives: Readonly<Record<string, readonly string[]>> = {
  batcher: [],
  quota: [],
  cache: ['breaker'],
  token: [],
  breaker: [],
  balancer: ['breaker'],
  log: [],
}

/** The client library that each adapter is for: its types alone, since the client comes from the caller. */
const clientLibraries: Readonly<Record<string, readonly string[]>> = {
  file: [],
  process: [],
  redis: ['ioredis', 'redis'],
  postgres: ['pg', '@electric-sql/pglite'],
  grpc: ['@grpc/grpc-js'],
  consul: [],
  http: ['undici'],
  metrics: ['@opentelemetry/api', 'prom-client'],
}

interface Import {
  readonly specifier: string
  readonly typeOnly: boolean
  readonly line: number
}

interface Manifest {
  readonly name: string
  readonly exports: Readonly<Record<string, unknown>>
  readonly dependencies?: Readonly<Record<string, string>>
  readonly peerDependencies?: Readonly<Record<string, string>>
  readonly devDependencies?: Readonly<Record<string, string>>
}

/**
 * Who imports whom: the table of the house, no cycles (those of types included: they tie two files together as much), nothing
 * back into the root entry, and no `node:` module within the root entry's reach.
 *
 * @returns what is wrong, each with its file, line and rule.
 */
export function checkArchitecture(tree: FileTree): string[] {
  const manifest = JSON.parse(tree.get('package.json') ?? '{}') as Manifest
  const graph = new Map<string, { to: string; line: number }[]>()
  const problems: string[] = []
  for (const [path, text] of tree) {
    if (!/^(?:src|bench|examples|test)\/.*\.[cm]?[jt]sx?$/.test(path)) continue
    const edges: { to: string; line: number }[] = []
    for (const found of importsOf(path, text)) {
      const target = found.specifier.startsWith('.') ? resolve(path, found.specifier, tree) : undefined
      if (target !== undefined) edges.push({ to: target, line: found.line })
      const rule = target === undefined ? outsideRule(path, found, manifest) : insideRule(path, target)
      if (rule !== undefined) problems.push(`${path}:${found.line} imports ${found.specifier}: ${rule}`)
    }
    graph.set(path, edges)
  }
  return [...problems, ...rootEntryCode(tree), ...nodeReach(tree, graph), ...cycles(graph)]
}

/** Every import of a file: statements, re-exports, `import()`, `import('…')` types and `require`. */
function importsOf(path: string, text: string): Import[] {
  const file = ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true)
  const found: Import[] = []
  const add = (specifier: ts.Node | undefined, typeOnly: boolean): void => {
    if (specifier === undefined || !ts.isStringLiteralLike(specifier)) return
    const line = file.getLineAndCharacterOfPosition(specifier.getStart(file)).line + 1
    found.push({ specifier: specifier.text, typeOnly, line })
  }
  const visit = (node: ts.Node): void => {
    if (ts.isImportDeclaration(node)) {
      add(node.moduleSpecifier, node.importClause?.phaseModifier === ts.SyntaxKind.TypeKeyword || allTypes(node))
    } else if (ts.isExportDeclaration(node)) {
      add(node.moduleSpecifier, node.isTypeOnly || allTypes(node))
    } else if (ts.isImportTypeNode(node)) {
      if (ts.isLiteralTypeNode(node.argument)) add(node.argument.literal, true)
    } else if (ts.isImportEqualsDeclaration(node)) {
      if (ts.isExternalModuleReference(node.moduleReference)) add(node.moduleReference.expression, node.isTypeOnly)
    } else if (ts.isCallExpression(node)) {
      const { expression } = node
      const called = expression.kind === ts.SyntaxKind.ImportKeyword ? 'import' : expression.getText(file)
      if (['import', 'require', 'vi.mock', 'vi.doMock', 'vi.importActual'].includes(called))
        add(node.arguments[0], false)
    }
    ts.forEachChild(node, visit)
  }
  visit(file)
  return found
}

/** Whether an import or export names nothing but `type`s. */
function allTypes(node: ts.ImportDeclaration | ts.ExportDeclaration): boolean {
  const clause = ts.isImportDeclaration(node) ? node.importClause : node
  const bindings = clause === undefined ? undefined : 'namedBindings' in clause ? clause.namedBindings : undefined
  const named = ts.isExportDeclaration(node) ? node.exportClause : bindings
  if (ts.isImportDeclaration(node) && node.importClause?.name !== undefined) return false
  if (named === undefined || !(ts.isNamedImports(named) || ts.isNamedExports(named))) return false
  return named.elements.length > 0 && named.elements.every((element) => element.isTypeOnly)
}

/** The file that a relative specifier means: as it is, as TypeScript's `.js` for `.ts`, or as a folder's index. */
function resolve(from: string, specifier: string, tree: FileTree): string {
  const target = posix.join(posix.dirname(from), specifier)
  const asSource = target.replace(/\.([cm]?)js(x?)$/, '.$1ts$2')
  const tried = [asSource, target, `${target}.ts`, `${target}/index.ts`]
  return tried.find((path) => tree.has(path)) ?? asSource
}

/** The rule that an import within the repository breaks, if it breaks one. */
function insideRule(from: string, to: string): string | undefined {
  if (to === 'src/index.ts') return 'nothing imports the root entry'
  const [top] = from.split('/')
  if (top !== 'src') {
    const [toTop, toLayer] = to.split('/')
    if (toTop === top) return undefined
    if (top === 'test' && (toTop === 'bench' || toTop === 'examples')) return undefined
    // The comparison under load runs the example's service on the real servers that the tests start.
    if (top === 'bench' && (toTop === 'examples' || to.startsWith('test/servers/'))) return undefined
    if (from.startsWith('test/internal/') && toTop === 'src' && (toLayer === 'internal' || toLayer === 'core')) {
      return undefined
    }
    return `${top} may import only itself and the public entries of the package (tests also bench and examples, benches also examples and test/servers, and test/internal alone reaches src/internal and src/core)`
  }
  const layer = layerOf(from)
  if (layer === undefined) return `src/${from.split('/')[1]} is no part of the house`
  const allowed = allowedLayers(layer)
  const target = layerOf(to)
  if (target !== undefined && allowed.includes(target)) return undefined
  return `${layer} may import only ${allowed.join(', ')}`
}

/** The rule that an import of something else breaks, if it breaks one. */
function outsideRule(from: string, found: Import, manifest: Manifest): string | undefined {
  const { specifier } = found
  const name = packageOf(specifier)
  if (isBuiltin(specifier) && !specifier.startsWith('node:'))
    return `Node's own modules are imported as node:${specifier}`
  const [top] = from.split('/')
  if (top !== 'src') {
    if (isBuiltin(specifier)) return undefined
    if (name === manifest.name) {
      const subPath = `.${specifier.slice(name.length)}`
      return manifest.exports[subPath] === undefined ? `package.json exports no ${subPath}` : undefined
    }
    const declared = { ...manifest.dependencies, ...manifest.peerDependencies, ...manifest.devDependencies }
    return declared[name] === undefined ? `package.json doesn't declare ${name}` : undefined
  }
  if (name === manifest.name) return 'src imports itself by relative paths'
  const layer = layerOf(from)
  const adapter = layer?.startsWith('adapters/') ? layer.slice('adapters/'.length) : undefined
  if (isBuiltin(specifier)) {
    return adapter === undefined ? 'only adapters may import modules of Node' : undefined
  }
  const mayDepend = adapter !== undefined || (layer !== undefined && layer in primitives)
  if (mayDepend && manifest.dependencies?.[name] !== undefined) return undefined
  if (adapter !== undefined && clientLibraries[adapter]?.includes(name)) {
    return found.typeOnly
      ? undefined
      : "an adapter imports only the types of its client library: the client is the caller's"
  }
  return `${layer ?? 'the root entry'} may not import packages other than ${adapter === undefined ? 'the dependencies' : 'the dependencies and its own client library'}`
}

/** Where a file of src belongs: `root`, `core`, `internal`, `testing`, a primitive, or `adapters/NAME`. */
function layerOf(path: string): string | undefined {
  if (path === 'src/index.ts') return 'root'
  const [, folder, file] = path.split('/')
  if (folder === 'adapters') return file !== undefined && file in clientLibraries ? `adapters/${file}` : undefined
  return folder !== undefined && (folder in primitives || ['core', 'internal', 'testing'].includes(folder))
    ? folder
    : undefined
}

function allowedLayers(layer: string): readonly string[] {
  if (layer === 'core') return ['core']
  if (layer === 'root') return ['core', ...Object.keys(primitives)]
  if (layer === 'testing') return ['testing', 'core', 'internal']
  return [...new Set([layer, 'core', 'internal', ...(primitives[layer] ?? [])])]
}

function packageOf(specifier: string): string {
  return specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/')
}

/** The root entry has no code of its own. */
function rootEntryCode(tree: FileTree): string[] {
  const file = ts.createSourceFile('src/index.ts', tree.get('src/index.ts') ?? '', ts.ScriptTarget.Latest, true)
  return file.statements
    .filter((statement) => !ts.isExportDeclaration(statement) || statement.moduleSpecifier === undefined)
    .map((statement) => {
      const line = file.getLineAndCharacterOfPosition(statement.getStart(file)).line + 1
      return `src/index.ts:${line} is more than a re-export: the root entry has no code of its own`
    })
}

/** Modules of Node that the root entry reaches, with the way there. */
function nodeReach(tree: FileTree, graph: ReadonlyMap<string, readonly { to: string }[]>): string[] {
  const ways = new Map([['src/index.ts', 'src/index.ts']])
  const problems: string[] = []
  for (const [path, way] of ways) {
    for (const { specifier, line } of importsOf(path, tree.get(path) ?? '')) {
      if (!isBuiltin(specifier)) continue
      problems.push(
        `${path}:${line} imports ${specifier}: the root entry reaches it (${way}) and must run without Node`,
      )
    }
    for (const { to } of graph.get(path) ?? []) if (!ways.has(to)) ways.set(to, `${way} -> ${to}`)
  }
  return problems
}

/** One cycle for each file that closes one, in the order of a depth-first walk. */
function cycles(graph: ReadonlyMap<string, readonly { to: string; line: number }[]>): string[] {
  const problems: string[] = []
  const finished = new Set<string>()
  const walk = (path: string, way: readonly string[]): void => {
    for (const { to, line } of graph.get(path) ?? []) {
      const start = way.indexOf(to)
      if (start >= 0) {
        problems.push(`${path}:${line} closes a cycle: ${[...way.slice(start), to].join(' -> ')}`)
      } else if (!finished.has(to) && graph.has(to)) walk(to, [...way, to])
    }
    finished.add(path)
  }
  for (const path of graph.keys()) if (!finished.has(path)) walk(path, [path])
  return problems
}
