import { readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitest/config'

const local = (path: string): string => fileURLToPath(new URL(path, import.meta.url))

// Tests import the package by its public names, which mean src here: one list for the compiler and for vitest.
const { compilerOptions } = JSON.parse(readFileSync(local('./tsconfig.check.json'), 'utf8')) as {
  compilerOptions: { paths: Record<string, [string]> }
}

const of = (folders: readonly string[]): string[] => folders.map((folder) => `test/${folder}/**/*.test.ts`)
/** Their files share processes: to import all that they need anew would take each of them longer than its tests. */
const primitives = of([
  'balancer',
  'batcher',
  'breaker',
  'cache',
  'contracts',
  'core',
  'internal',
  'quota',
  'testing',
  'token',
])
const adapters = of(['adapters', 'log', 'regressions'])
/** They put something in place of a module, which works only where no other file has imported it before. */
const mocking = [
  ...['faults', 'crash', 'dead-letters'].map((part) => `test/adapters/file/file-journal.${part}.test.ts`),
  'test/examples/config-effects.test.ts',
]

export default defineConfig({
  resolve: {
    alias: Object.entries(compilerOptions.paths).map(([name, [path]]) => ({
      find: new RegExp(`^${name}$`),
      replacement: local(path),
    })),
  },
  test: {
    projects: [
      { extends: true, test: { name: 'primitives', include: primitives, isolate: false } },
      { extends: true, test: { name: 'adapters', include: adapters, exclude: mocking, isolate: false } },
      { extends: true, test: { name: 'mocking', include: mocking } },
      // Whole services, and the repository itself.
      {
        extends: true,
        test: {
          name: 'systems',
          include: ['test/**/*.test.ts'],
          exclude: [...primitives, ...adapters, ...mocking],
          isolate: false,
        },
      },
    ],
    pool: 'forks',
    // Three even on two cores: many tests wait for servers and processes most of their time.
    maxWorkers: Math.max(3, availableParallelism() - 1),
    testTimeout: 20_000,
    hookTimeout: 120_000,
  },
})
