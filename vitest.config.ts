import { readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitest/config'

const local = (path: string): string => fileURLToPath(new URL(path, import.meta.url))

// Tests import the package by its public names, which mean src here: one list for the compiler and for vitest.
const { compilerOptions } = JSON.parse(readFileSync(local('./tsconfig.check.json'), 'utf8')) as {
  compilerOptions: { paths: Record<string, [string]> }
}

/** What starts no server: a process of its own for each of these files would take longer than its tests. */
const withoutServers = [
  ...['balancer', 'batcher', 'breaker', 'cache', 'contracts', 'core'],
  ...['internal', 'quota', 'testing', 'token'],
].map((folder) => `test/${folder}/**/*.test.ts`)

export default defineConfig({
  resolve: {
    alias: Object.entries(compilerOptions.paths).map(([name, [path]]) => ({
      find: new RegExp(`^${name}$`),
      replacement: local(path),
    })),
  },
  test: {
    projects: [
      { extends: true, test: { name: 'primitives', include: withoutServers, isolate: false } },
      { extends: true, test: { name: 'systems', include: ['test/**/*.test.ts'], exclude: withoutServers } },
    ],
    pool: 'forks',
    // Two even on two cores: many tests wait for servers and processes most of their time.
    maxWorkers: Math.max(2, availableParallelism() - 1),
    testTimeout: 20_000,
    hookTimeout: 120_000,
  },
})
