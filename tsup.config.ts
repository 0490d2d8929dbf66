import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { defineConfig, type Options } from 'tsup'

/** No entries: files apart from the root entry's, so that only whoever uses a cache bundles lru-cache, whose side effects bundlers fear. */
const apart = { 'memory-tier': 'src/cache/memory-tier.ts' }

const both: Options = {
  entry: {
    index: 'src/index.ts',
    consul: 'src/adapters/consul/index.ts',
    file: 'src/adapters/file/index.ts',
    grpc: 'src/adapters/grpc/index.ts',
    http: 'src/adapters/http/index.ts',
    metrics: 'src/adapters/metrics/index.ts',
    postgres: 'src/adapters/postgres/index.ts',
    process: 'src/adapters/process/index.ts',
    redis: 'src/adapters/redis/index.ts',
    testing: 'src/testing/index.ts',
    ...apart,
  },
  target: 'es2022',
  platform: 'neutral',
  // One copy of each error class, whichever sub-path it is imported from.
  splitting: true,
  sourcemap: true,
  treeshake: false,
  // Node's own modules under their full names, which other runtimes tell from packages.
  removeNodeProtocol: false,
  external: [/^node:/],
  dts: { compilerOptions: { ignoreDeprecations: '6.0' } },
}

// Not tsup's `clean`: each of the two would remove what the other one wrote.
rmSync('dist', { recursive: true, force: true })

/** p-limit is ESM alone, which Jest, tsx and bundlers of CommonJS can't require. */
const bundledIntoCjs = ['p-limit', 'yocto-queue']

const licences = bundledIntoCjs.map((name) => {
  const text = readFileSync(`node_modules/${name}/license`, 'utf8')
  return `The CommonJS files contain ${name}:\n\n${text}`
})

export default defineConfig([
  { ...both, format: 'esm' },
  {
    ...both,
    format: 'cjs',
    noExternal: bundledIntoCjs,
    onSuccess: async () => writeFileSync('dist/LICENSES.txt', licences.join('\n')),
  },
])
