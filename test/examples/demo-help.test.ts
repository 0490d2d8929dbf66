import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'
import { describe, expect, test } from 'vitest'
import { configFlags } from '../../examples/counter-billing/config/flags.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** Every program of the repository that has a --help, and the file that parses its flags. */
const programs = [
  ['examples/counter-billing/demo/demo.ts', 'examples/counter-billing/demo/options.ts', []],
  ['examples/counter-billing/demo/presets.ts', 'examples/counter-billing/demo/presets.ts', []],
  ['examples/counter-billing/main.ts', 'examples/counter-billing/main.ts', []],
  ['bench/load/run.ts', 'bench/load/run.ts', []],
  ['bench/load/run.ts', 'bench/load/quota/run.ts', ['quota']],
  ['bench/run.ts', 'bench/run.ts', []],
  ['bench/soak/run.ts', 'bench/soak/run.ts', []],
  ['test/chaos/run.ts', 'test/chaos/run.ts', []],
] as const

/** The flags of an object that names their types, wherever it stands in the file. */
function parsedIn(path: string): Set<string> {
  const file = ts.createSourceFile(path, readFileSync(join(root, path), 'utf8'), ts.ScriptTarget.Latest, true)
  const flags = new Set<string>(['help'])
  const visit = (node: ts.Node): void => {
    if (ts.isPropertyAssignment(node) && ts.isObjectLiteralExpression(node.initializer)) {
      const typed = node.initializer.properties.some(
        (property) =>
          ts.isPropertyAssignment(property) &&
          property.name.getText() === 'type' &&
          /^'(?:string|boolean)'/.test(property.initializer.getText()),
      )
      if (typed) flags.add(node.name.getText().replaceAll("'", ''))
    }
    if (ts.isSpreadAssignment(node) && node.expression.getText() === 'configFlags') {
      for (const flag of Object.keys(configFlags)) flags.add(flag)
    }
    ts.forEachChild(node, visit)
  }
  visit(file)
  return flags
}

/** Runs a program as its users do. */
function run(program: string, flags: readonly string[]): { stdout: string; stderr: string; status: number | null } {
  return spawnSync(process.execPath, ['--import', 'tsx', program, ...flags], {
    cwd: root,
    env: { ...process.env, NODE_OPTIONS: '', TSX_TSCONFIG_PATH: 'tsconfig.check.json' },
    encoding: 'utf8',
    timeout: 110_000,
  })
}

describe('--help', { timeout: 120_000 }, () => {
  test.each(programs)(
    'of %s (%s) has the flags that are parsed, all of them and no other',
    (program, parser, words) => {
      const { stdout, status } = run(program, [...words, '--help'])

      const told = [...stdout.matchAll(/^ {2}--([a-z-]+)/gm)].map(([, flag = '']) => flag)

      expect(status).toBe(0)
      expect(told.toSorted()).toEqual([...parsedIn(parser)].toSorted())
    },
  )
})
