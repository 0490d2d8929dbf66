import { metricsCatalog, type StatsMapping } from 'spillway/metrics'
import ts from 'typescript'
import { describe, expect, it } from 'vitest'
import { readTree, textOf } from '../../repo/checks/file-tree.js'
import { programOf } from '../../repo/checks/program.js'

const { metrics, stats } = metricsCatalog()
/** Fields that a kind works out of others, so that no stats have them. */
const derived = new Set(['used'])

/** A field of stats that says something in numbers, or in one of several words. */
interface Leaf {
  readonly path: string
  readonly states: readonly string[]
}

/** Every class of the package with `stats()`, and the fields of what that returns, as the compiler sees them. */
function statsOfClasses(): Map<string, { leaves: Leaf[]; paths: Set<string> }> {
  const tree = readTree()
  const entries = [...tree.keys()].filter(
    (path) => path === 'src/index.ts' || /^src\/adapters\/[^/]+\/index\.ts$/.test(path),
  )
  const program = programOf(tree, new Map(), entries)
  const checker = program.getTypeChecker()
  const found = new Map<string, { leaves: Leaf[]; paths: Set<string> }>()
  for (const file of program.getSourceFiles()) {
    const symbol = entries.some((path) => file.fileName.endsWith(`/${path}`)) && checker.getSymbolAtLocation(file)
    for (const exported of symbol ? checker.getExportsOfModule(symbol) : []) {
      const target = exported.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(exported) : exported
      if (!(target.flags & ts.SymbolFlags.Class)) continue
      const method = checker.getDeclaredTypeOfSymbol(target).getProperty('stats')
      if (method === undefined) continue
      const leaves: Leaf[] = []
      const paths = new Set<string>()
      walk(resultOf(method), '', leaves, paths)
      const members = checker.getDeclaredTypeOfSymbol(target).getProperty('instances')
      if (target.name === 'LoadBalancer' && members !== undefined) {
        const element = checker.getIndexTypeOfType(resultOf(members), ts.IndexKind.Number)
        if (element !== undefined) walk(element, '[].', leaves, paths)
      }
      found.set(target.name, { leaves, paths })
    }
  }
  return found

  function resultOf(method: ts.Symbol): ts.Type {
    const type = checker.getTypeOfSymbol(method)
    const [signature] = type.getCallSignatures()
    if (signature === undefined) throw new Error(`${method.name} is no method`)
    return signature.getReturnType()
  }

  function walk(of: ts.Type, prefix: string, leaves: Leaf[], paths: Set<string>): void {
    for (const property of checker.getPropertiesOfType(of)) {
      const path = `${prefix}${property.name}`
      const type = checker.getNonNullableType(checker.getTypeOfSymbol(property))
      paths.add(path)
      const parts = type.isUnion() ? type.types : [type]
      const states = parts.flatMap((part) => (part.isStringLiteral() ? [part.value] : []))
      const isNumber = (type.flags & ts.TypeFlags.NumberLike) !== 0
      const isFlag = parts.some((part) => part.flags & ts.TypeFlags.BooleanLike)
      const element = checker.isArrayType(type) ? checker.getIndexTypeOfType(type, ts.IndexKind.Number) : undefined
      if (isNumber || isFlag || states.length > 0) leaves.push({ path, states })
      else if (element !== undefined) walk(element, `${path}[].`, leaves, paths)
      else if (
        type.flags & (ts.TypeFlags.Object | ts.TypeFlags.Intersection) &&
        type.getCallSignatures().length === 0
      ) {
        walk(type, `${path}.`, leaves, paths)
      }
    }
  }
}

/** The rule of a field: its own, or that of what it lies in. */
function ruleOf(component: string, path: string): StatsMapping | undefined {
  return stats.find(
    (one) =>
      one.component === component &&
      (one.path === path || (/^[.[]/.test(path.slice(one.path.length)) && path.startsWith(one.path))),
  )
}

describe('the table of metrics', { timeout: 120_000 }, () => {
  const classes = statsOfClasses()

  it('has every class with stats, and all that their stats count', () => {
    const missing = [...classes].flatMap(([component, { leaves }]) =>
      leaves.filter(({ path }) => ruleOf(component, path) === undefined).map(({ path }) => `${component}.${path}`),
    )

    expect([...classes.keys()]).toEqual(
      expect.arrayContaining(['AsyncBatcher', 'CircuitBreaker', 'PostgresQuotaStore', 'RedisUsageWorker', 'FileSink']),
    )
    expect(missing).toEqual([])
  })

  it('has a series for each state that a field may say', () => {
    const wrong = [...classes].flatMap(([component, { leaves }]) =>
      leaves.flatMap(({ path, states }) => {
        const rule = ruleOf(component, path)
        if (states.length === 0 || rule === undefined || rule.leftOut !== undefined) return []
        const told = rule.series.map(({ attributes }) => attributes['state'])
        const same = told.toSorted().join() === states.toSorted().join()
        return same ? [] : [`${component}.${path} is one of ${states}, but the table has ${told}`]
      }),
    )

    expect(wrong).toEqual([])
  })

  it('has nothing that no stats have', () => {
    const wrong = stats.filter(({ component, path }) => {
      const found = classes.get(component)
      return found !== undefined && !found.paths.has(path) && !derived.has(path.split('.').at(-1) ?? '')
    })

    expect(wrong).toEqual([])
  })

  it('says why, where it leaves something out, and has series of everything else', () => {
    for (const { leftOut, series } of stats) expect(leftOut === undefined).toBe(series.length > 0)
    expect(stats.filter(({ leftOut }) => leftOut === '')).toEqual([])
  })

  it('has one metric a name, in either output', () => {
    const names = metrics.map(({ name }) => name)
    const prometheusNames = metrics.map(({ prometheusName }) => prometheusName)

    expect(new Set(names).size).toBe(names.length)
    expect(new Set(prometheusNames).size).toBe(names.length)
    // A name is no namespace of others.
    expect(names.filter((name) => names.some((other) => other.startsWith(`${name}.`)))).toEqual([])
  })

  it('keeps to the conventions of OpenTelemetry and Prometheus', () => {
    for (const { name, prometheusName, type, unit, description, attributes } of metrics) {
      expect(name).toMatch(/^(spillway|db\.client\.connection|nodejs\.eventloop\.delay)(\.[a-z0-9]+(_[a-z0-9]+)*)+$/)
      expect(name).not.toMatch(/[._](total|seconds|ms|bytes|count_)$/)
      expect(unit).toMatch(/^(s|By|\{[a-z]+\})$/)
      expect(description).toMatch(/^[A-Z][^\n]*\.$/)
      expect(prometheusName).toMatch(/^[a-z][a-z0-9_]*$/)
      expect(prometheusName.endsWith('_total')).toBe(type === 'counter')
      expect(/_seconds(_total)?$/.test(prometheusName)).toBe(unit === 's')
      expect(/_bytes(_total)?$/.test(prometheusName)).toBe(unit === 'By')
      for (const attribute of attributes) expect(attribute).toMatch(/^[a-z]+([._][a-z]+)*$/)
    }
  })
})

describe('the page on metrics', () => {
  const text = textOf(readTree(), 'docs/adapters/metrics.md')
  const names = new Set(metrics.map(({ prometheusName }) => prometheusName))

  it('has a row of each metric, as it is', () => {
    const code = (list: readonly string[]) => list.map((one) => `\`${one}\``).join(', ')
    const expected = metrics.map(({ name, prometheusName, type, unit, attributes, components, description }) =>
      [
        code([name]),
        code([prometheusName]),
        `${type}, ${code([unit])}`,
        code(attributes),
        components.join(', '),
        description,
      ].join(' | '),
    )
    const rows = [...text.matchAll(/^\| (`[a-z_0-9]+(?:\.[a-z_0-9]+)+` .*) \|$/gm)].map(([, row = '']) =>
      row
        .split(' | ')
        .map((cell) => cell.trim())
        .join(' | '),
    )

    expect(rows).toEqual(expected)
  })

  it('asks only for metrics that there are', () => {
    const [before = ''] = text.split('## All metrics')
    const asked = [...before.matchAll(/\b(?:spillway|db_client|nodejs_eventloop_delay)_[a-z_0-9]+\b/g)].map(
      ([name]) => name,
    )
    const known = (name: string) =>
      names.has(name) ||
      ['_sum', '_count', '_bucket'].some((suffix) => name.endsWith(suffix) && names.has(name.slice(0, -suffix.length)))

    expect(asked.length).toBeGreaterThan(15)
    expect(asked.filter((name) => !known(name) && name !== 'db_client_connection_pool_name')).toEqual([])
  })
})
