import { readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitest/config'

const local = (path: string): string => fileURLToPath(new URL(path, import.meta.url))

// Tests import the package by its public names, which mean src here: one list for the compiler and for vitest.
const { compilerOptions } = JSON.parse(readFileSync(local('./tsconfig.check.json'), 'utf8')) as {
  compilerOptions: { paths: Record<string, [string]> }
}

export default defineConfig({
  resolve: {
    alias: Object.entries(compilerOptions.paths).map(([name, [path]]) => ({
      find: new RegExp(`^${name}$`),
      replacement: local(path),
    })),
  },
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    // Two even on two cores: many tests wait for servers and processes most of their time.
    maxWorkers: Math.max(2, availableParallelism() - 1),
    testTimeout: 20_000,
    hookTimeout: 120_000,
  },
})
