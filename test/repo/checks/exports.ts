import ts from 'typescript'
import { type FileTree, root, textOf } from './file-tree.js'
import { programOf } from './program.js'

type Json = { readonly [key: string]: unknown }

/** The file that each sub-path of the package is built from: the layout of src decides. */
export function entriesOf(tree: FileTree): Map<string, string> {
  const entries = new Map<string, string>()
  for (const path of [...tree.keys()].sort()) {
    const [, adapter] = /^src\/adapters\/([^/]+)\/index\.ts$/.exec(path) ?? []
    if (path === 'src/index.ts') entries.set('.', path)
    else if (path === 'src/testing/index.ts') entries.set('./testing', path)
    else if (adapter !== undefined) entries.set(`./${adapter}`, path)
  }
  return entries
}

/**
 * The lists of entries agree with the files that are there: `exports` of package.json, the entries of tsup, the entry points of
 * typedoc, and the names that tests, benchmarks and examples import.
 *
 * @returns what doesn't, each with its file and rule.
 */
export function checkEntries(tree: FileTree): string[] {
  const entries = entriesOf(tree)
  const manifest = JSON.parse(textOf(tree, 'package.json')) as Json
  const typedoc = JSON.parse(textOf(tree, 'typedoc.json')) as Json
  const { compilerOptions } = JSON.parse(textOf(tree, 'tsconfig.check.json')) as { compilerOptions: Json }
  const name = String(manifest['name'])
  const byName = (text: (subPath: string, path: string) => [string, unknown]): Json =>
    Object.fromEntries([...entries].map(([subPath, path]) => text(subPath, path)))
  return [
    ...differences('package.json', 'exports', manifest['exports'], {
      ...byName((subPath) => [subPath, conditions(outputOf(subPath))]),
      './package.json': './package.json',
    }),
    ...differences(
      'package.json',
      'main, module and types',
      { main: manifest['main'], module: manifest['module'], types: manifest['types'] },
      { main: './dist/index.cjs', module: './dist/index.js', types: './dist/index.d.cts' },
    ),
    ...differences(
      'tsup.config.ts',
      'entry',
      tsupEntries(textOf(tree, 'tsup.config.ts')),
      byName((subPath, path) => [outputOf(subPath), path]),
    ),
    ...differences(
      'typedoc.json',
      'entryPoints',
      Object.fromEntries((typedoc['entryPoints'] as string[]).map((path) => [path, path])),
      byName((_subPath, path) => [path, path]),
    ),
    ...differences(
      'tsconfig.check.json',
      'paths',
      compilerOptions['paths'],
      byName((subPath, path) => [name + subPath.slice(1), [`./${path}`]]),
    ),
  ]
}

/** What tsup calls an entry's files in dist. */
function outputOf(subPath: string): string {
  return subPath === '.' ? 'index' : subPath.slice(2)
}

function conditions(output: string): Json {
  return {
    import: { types: `./dist/${output}.d.ts`, default: `./dist/${output}.js` },
    require: { types: `./dist/${output}.d.cts`, default: `./dist/${output}.cjs` },
  }
}

function differences(file: string, field: string, actual: unknown, expected: Json): string[] {
  const got = (actual ?? {}) as Json
  const problems: string[] = []
  for (const [key, value] of Object.entries(expected)) {
    if (got[key] === undefined) problems.push(`${file} lacks ${key} in ${field}, which the files of src ask for`)
    // Compared as text: of export conditions the first that matches counts, so that their order matters.
    else if (JSON.stringify(got[key]) !== JSON.stringify(value)) {
      problems.push(`${file} has in ${field} ${key}: ${JSON.stringify(got[key])}, expected ${JSON.stringify(value)}`)
    }
  }
  for (const key of Object.keys(got)) {
    if (!(key in expected)) problems.push(`${file} has ${key} in ${field}, but src has no entry for it`)
  }
  return problems
}

/** The `entry` of `defineConfig({ entry: { … } })`. */
function tsupEntries(text: string): Json {
  const file = ts.createSourceFile('tsup.config.ts', text, ts.ScriptTarget.Latest, true)
  const entries: Record<string, string> = {}
  const visit = (node: ts.Node): void => {
    if (
      ts.isPropertyAssignment(node) &&
      node.name.getText(file) === 'entry' &&
      ts.isObjectLiteralExpression(node.initializer)
    ) {
      for (const property of node.initializer.properties) {
        if (!ts.isPropertyAssignment(property) || !ts.isStringLiteralLike(property.initializer)) continue
        const key = ts.isStringLiteralLike(property.name) ? property.name.text : property.name.getText(file)
        entries[key] = property.initializer.text
      }
    }
    ts.forEachChild(node, visit)
  }
  visit(file)
  return entries
}

/**
 * Everything that an entry exports has a doc comment, and so has every public member of its classes and interfaces.
 *
 * @returns what has none, each with its file, line and name.
 */
export function checkDocumented(tree: FileTree): string[] {
  const entries = entriesOf(tree)
  const program = programOf(tree, new Map(), [...entries.values()])
  const checker = program.getTypeChecker()
  const problems = new Set<string>()
  const check = (symbol: ts.Symbol, name: string): void => {
    if (symbol.getDocumentationComment(checker).length > 0) return
    const declaration = symbol.declarations?.[0]
    if (declaration === undefined) return
    const file = declaration.getSourceFile()
    const line = file.getLineAndCharacterOfPosition(declaration.getStart(file)).line + 1
    problems.add(`${file.fileName.slice(root.length + 1)}:${line} ${name} is exported and has no doc comment`)
  }
  for (const [subPath, path] of entries) {
    const file = program.getSourceFile(`${root}/${path}`)
    const entry = file === undefined ? undefined : checker.getSymbolAtLocation(file)
    if (entry === undefined) {
      problems.add(`${path} exports nothing, but is the entry of ${subPath}`)
      continue
    }
    for (const exported of checker.getExportsOfModule(entry)) {
      const symbol = exported.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(exported) : exported
      check(symbol, symbol.name)
      for (const declaration of symbol.declarations ?? []) {
        if (!ts.isClassDeclaration(declaration) && !ts.isInterfaceDeclaration(declaration)) continue
        for (const member of declaration.members) {
          if (!isPublic(member)) continue
          const memberSymbol = member.name === undefined ? undefined : checker.getSymbolAtLocation(member.name)
          if (memberSymbol !== undefined) check(memberSymbol, `${symbol.name}.${memberSymbol.name}`)
        }
      }
    }
  }
  return [...problems]
}

function isPublic(member: ts.ClassElement | ts.TypeElement): boolean {
  if (member.name !== undefined && (ts.isPrivateIdentifier(member.name) || ts.isComputedPropertyName(member.name))) {
    return false
  }
  return (ts.getCombinedModifierFlags(member) & (ts.ModifierFlags.Private | ts.ModifierFlags.Override)) === 0
}
