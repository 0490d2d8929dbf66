import ts from 'typescript'
import type { FileTree } from './file-tree.js'

/** One option that its doc gives a default. */
interface DocumentedDefault {
  readonly option: string
  readonly text: string
  readonly at: string
}

interface OptionsInterface {
  readonly name: string
  readonly at: string
  readonly bases: readonly string[]
  readonly own: readonly DocumentedDefault[]
}

interface Defaults {
  /** `AsyncBatcher.defaults` or `closeOnExitDefaults`. */
  readonly name: string
  /** The interface whose defaults these are. */
  readonly optionsName: string
  readonly at: string
  /** Each option's value in JSON, or what it says if it is no plain value. */
  readonly values: ReadonlyMap<string, string>
}

/**
 * What the docs of options promise is what stands in the code: `@defaultValue` on a member of `XOptions` equals its value in
 * `X.defaults` (or in an exported `xDefaults`), and neither side has what the other has not.
 *
 * @returns what is wrong, each with its file, line and rule.
 */
export function checkDefaults(tree: FileTree): string[] {
  const interfaces = new Map<string, OptionsInterface>()
  const defaults: Defaults[] = []
  for (const [path, text] of tree) {
    if (!/^src\/.*\.ts$/.test(path)) continue
    const file = ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true)
    for (const statement of file.statements) {
      if (ts.isInterfaceDeclaration(statement)) {
        const found = optionsInterface(path, file, statement)
        interfaces.set(found.name, found)
      } else {
        defaults.push(...defaultsOf(path, file, statement))
      }
    }
  }
  const problems: string[] = []
  for (const one of defaults) problems.push(...compare(one, interfaces))
  const held = new Set(defaults.flatMap((one) => lineage(one.optionsName, interfaces)))
  for (const { name, own } of interfaces.values()) {
    if (held.has(name)) continue
    for (const { option, at } of own) {
      problems.push(`${at} ${name}.${option} has a @defaultValue, but no exported defaults of ${name} hold it`)
    }
  }
  return problems
}

function compare(one: Defaults, interfaces: ReadonlyMap<string, OptionsInterface>): string[] {
  const options = interfaces.get(one.optionsName)
  if (options === undefined) return [`${one.at} ${one.name} has no interface ${one.optionsName}`]
  const documented = lineage(one.optionsName, interfaces).flatMap((name) => interfaces.get(name)?.own ?? [])
  const problems: string[] = []
  for (const { option, text, at } of documented) {
    const value = one.values.get(option)
    if (value === undefined) {
      problems.push(`${at} ${option} says @defaultValue ${text}, but ${one.name} has no ${option}`)
    } else if (plainFormOfText(text) !== value) {
      problems.push(`${at} ${option} says @defaultValue ${text}, but ${one.name}.${option} is ${value}`)
    }
  }
  for (const [option, value] of one.values) {
    if (documented.some((doc) => doc.option === option)) continue
    problems.push(`${one.at} ${one.name}.${option} is ${value}, but ${options.name}.${option} has no @defaultValue`)
  }
  return problems
}

/** An interface and those that it extends, as far as they are in src. */
function lineage(name: string, interfaces: ReadonlyMap<string, OptionsInterface>): string[] {
  return [name, ...(interfaces.get(name)?.bases ?? []).flatMap((base) => lineage(base, interfaces))]
}

function optionsInterface(path: string, file: ts.SourceFile, node: ts.InterfaceDeclaration): OptionsInterface {
  const own: DocumentedDefault[] = []
  for (const member of node.members) {
    for (const tag of ts.getJSDocTags(member)) {
      if (tag.tagName.text !== 'defaultValue') continue
      const text = (ts.getTextOfJSDocComment(tag.comment) ?? '').replace(/^`|`$/g, '').trim()
      own.push({ option: member.name?.getText(file) ?? '', text, at: `${path}:${lineOf(file, tag)}` })
    }
  }
  const bases = (node.heritageClauses ?? []).flatMap((clause) =>
    clause.types.map((type) => type.expression.getText(file)),
  )
  return { name: node.name.text, at: `${path}:${lineOf(file, node)}`, bases, own }
}

/** `static defaults` of a class, or an exported `xDefaults`. */
function defaultsOf(path: string, file: ts.SourceFile, statement: ts.Statement): Defaults[] {
  const found: Defaults[] = []
  const add = (name: string, optionsName: string, value: ts.Expression | undefined): void => {
    const literal = unwrapped(value)
    const at = `${path}:${lineOf(file, literal ?? statement)}`
    const values = new Map<string, string>()
    if (literal !== undefined && ts.isObjectLiteralExpression(literal)) {
      for (const property of literal.properties) {
        const key = property.name === undefined ? property.getText(file) : keyOf(property.name, file)
        values.set(
          key,
          ts.isPropertyAssignment(property) ? plainForm(property.initializer, file) : property.getText(file),
        )
      }
    }
    found.push({ name, optionsName, at, values })
  }
  if (ts.isClassDeclaration(statement) && statement.name !== undefined) {
    const className = statement.name.text
    for (const member of statement.members) {
      if (!ts.isPropertyDeclaration(member) || member.name.getText(file) !== 'defaults') continue
      add(`${className}.defaults`, `${className}Options`, member.initializer)
    }
  }
  if (ts.isVariableStatement(statement)) {
    if (!statement.modifiers?.some((modifier) => modifier.kind === ts.SyntaxKind.ExportKeyword)) return found
    for (const { name, initializer } of statement.declarationList.declarations) {
      const [, of] = /^(\w+)Defaults$/.exec(name.getText(file)) ?? []
      if (of !== undefined) add(`${of}Defaults`, `${of.charAt(0).toUpperCase()}${of.slice(1)}Options`, initializer)
    }
  }
  return found
}

/** An expression without `as const`, `satisfies`, parentheses and `Object.freeze`. */
function unwrapped(node: ts.Expression | undefined): ts.Expression | undefined {
  if (node === undefined) return undefined
  if (ts.isAsExpression(node) || ts.isSatisfiesExpression(node) || ts.isParenthesizedExpression(node)) {
    return unwrapped(node.expression)
  }
  if (ts.isCallExpression(node) && node.expression.getText() === 'Object.freeze') return unwrapped(node.arguments[0])
  return node
}

/** What a `@defaultValue` means, in the same form as {@link plainForm}. */
function plainFormOfText(text: string): string {
  const file = ts.createSourceFile('default.ts', `(${text})`, ts.ScriptTarget.Latest, true)
  const [statement] = file.statements
  return statement !== undefined && ts.isExpressionStatement(statement) ? plainForm(statement.expression, file) : text
}

/** A plain value in one form however it is written (`10_000`, `24 * 60`); anything else is its own text. */
function plainForm(expression: ts.Expression, file: ts.SourceFile): string {
  const node = unwrapped(expression) ?? expression
  if (ts.isStringLiteralLike(node)) return JSON.stringify(node.text)
  if (ts.isArrayLiteralExpression(node))
    return `[${node.elements.map((element) => plainForm(element, file)).join(', ')}]`
  if (ts.isObjectLiteralExpression(node)) {
    const entries = node.properties.map((property) =>
      ts.isPropertyAssignment(property)
        ? `${keyOf(property.name, file)}: ${plainForm(property.initializer, file)}`
        : property.getText(file),
    )
    return `{ ${entries.sort().join(', ')} }`
  }
  const number = numberOf(node)
  return number === undefined ? node.getText(file) : String(number)
}

function numberOf(expression: ts.Expression): number | undefined {
  const node = unwrapped(expression) ?? expression
  if (ts.isNumericLiteral(node)) return Number(node.text.replaceAll('_', ''))
  if (ts.isPrefixUnaryExpression(node) && node.operator === ts.SyntaxKind.MinusToken) {
    const operand = numberOf(node.operand)
    return operand === undefined ? undefined : -operand
  }
  if (!ts.isBinaryExpression(node)) return undefined
  const left = numberOf(node.left)
  const right = numberOf(node.right)
  if (left === undefined || right === undefined) return undefined
  switch (node.operatorToken.kind) {
    case ts.SyntaxKind.AsteriskToken:
      return left * right
    case ts.SyntaxKind.AsteriskAsteriskToken:
      return left ** right
    case ts.SyntaxKind.PlusToken:
      return left + right
    case ts.SyntaxKind.MinusToken:
      return left - right
    case ts.SyntaxKind.SlashToken:
      return left / right
    default:
      return undefined
  }
}

function keyOf(name: ts.PropertyName, file: ts.SourceFile): string {
  return ts.isStringLiteralLike(name) ? name.text : name.getText(file)
}

function lineOf(file: ts.SourceFile, node: ts.Node): number {
  return file.getLineAndCharacterOfPosition(node.getStart(file)).line + 1
}
