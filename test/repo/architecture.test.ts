import { describe, expect, it } from 'vitest'
import { checkArchitecture } from './checks/architecture.js'
import { readTree, treeOf } from './checks/file-tree.js'

const manifest = JSON.stringify({
  name: 'spillway',
  exports: { '.': {}, './testing': {} },
  dependencies: { 'lru-cache': '1' },
  devDependencies: { vitest: '1', pg: '1' },
})

function violations(files: Readonly<Record<string, string>>): string[] {
  return checkArchitecture(treeOf({ 'package.json': manifest, ...files }))
}

describe('the import table', () => {
  it('is kept by every file of src, bench, examples and test', () => {
    expect(checkArchitecture(readTree())).toEqual([])
  }, 120_000)

  it('is read from a tree that has files to read', () => {
    const paths = [...readTree().keys()]

    expect(paths.filter((path) => path.startsWith('src/')).length).toBeGreaterThan(10)
    expect(paths).toContain('test/repo/architecture.test.ts')
    expect(paths.some((path) => path.startsWith('node_modules/') || path.startsWith('dist/'))).toBe(false)
  })

  it('lets through what it allows', () => {
    const files = {
      'src/index.ts': "export { X } from './cache/x.js'\nexport type * from './core/ports.js'\n",
      'src/core/ports.ts': "import type { Y } from './y.js'\n",
      'src/core/y.ts': 'export type Y = 1\n',
      'src/internal/queue.ts': "import '../core/ports.js'\n",
      'src/breaker/breaker.ts': "import '../core/ports.js'\n",
      'src/cache/x.ts':
        "import '../breaker/breaker.js'\nimport '../internal/queue.js'\nimport { LRUCache } from 'lru-cache'\n",
      'src/adapters/postgres/index.ts': "import type { Pool } from 'pg'\nimport 'node:fs'\nimport '../../core/y.js'\n",
      'src/testing/index.ts': "import '../internal/queue.js'\n",
      'bench/run.ts': "import 'spillway'\nimport './table.js'\nimport 'node:fs'\nimport 'pg'\n",
      'bench/table.ts': '',
      'test/cache/x.test.ts': "import 'spillway/testing'\nimport { it } from 'vitest'\nimport '../../bench/table.js'\n",
      'test/internal/queue.test.ts': "import '../../src/internal/queue.js'\n",
    }

    expect(violations(files)).toEqual([])
  })

  it.each([
    ['core imports internal', { 'src/core/a.ts': "import '../internal/b.js'" }, 'core may import only core'],
    ['core imports a package', { 'src/core/a.ts': "import 'lru-cache'" }, 'core may not import packages'],
    [
      'internal imports a primitive, as a type',
      { 'src/internal/a.ts': "\nimport type { X } from '../cache/x.js'", 'src/cache/x.ts': '' },
      'src/internal/a.ts:2 imports ../cache/x.js: internal may import only internal, core',
    ],
    [
      'a primitive imports another one',
      { 'src/token/a.ts': "export * from '../cache/x.js'" },
      'token may import only token, core, internal',
    ],
    [
      'a primitive imports an adapter',
      { 'src/cache/a.ts': "import '../adapters/redis/index.js'" },
      'cache may import only cache, core, internal, breaker',
    ],
    [
      'an adapter imports an adapter',
      { 'src/adapters/redis/a.ts': "import '../postgres/index.js'" },
      'adapters/redis may import only adapters/redis, core, internal',
    ],
    [
      'an adapter imports a primitive, by import()',
      { 'src/adapters/redis/a.ts': "const x = await import('../../cache/x.js')" },
      'adapters/redis may import only adapters/redis, core, internal',
    ],
    [
      "an adapter imports another one's client library",
      { 'src/adapters/redis/a.ts': "import type { Pool } from 'pg'" },
      'adapters/redis may not import packages',
    ],
    [
      'an adapter imports the client itself',
      { 'src/adapters/postgres/a.ts': "import { type PoolConfig, Pool } from 'pg'" },
      'only the types of its client library',
    ],
    [
      'src imports testing',
      { 'src/batcher/a.ts': "type F = import('../testing/fake-clock.js').FakeClock" },
      'batcher may import only batcher, core, internal',
    ],
    [
      'a file of src stands in a folder that the house has not',
      { 'src/utils/a.ts': "import '../core/b.js'" },
      'src/utils is no part of the house',
    ],
    ['src imports itself by name', { 'src/batcher/a.ts': "import 'spillway'" }, 'by relative paths'],
    ['src imports the root entry', { 'src/testing/a.ts': "import '../index.js'" }, 'nothing imports the root entry'],
    [
      'a test imports the root entry by path',
      { 'test/internal/a.test.ts': "import '../../src/index.js'", 'src/index.ts': '' },
      'nothing imports the root entry',
    ],
    [
      'a test reaches into src',
      { 'test/core/a.test.ts': "import '../../src/core/clock.js'" },
      'only itself and the public',
    ],
    [
      'a benchmark reaches into src',
      { 'bench/a.ts': "import '../src/internal/deferred.ts'" },
      'only itself and the public',
    ],
    [
      'an example reaches into src',
      { 'examples/a.ts': "require('../src/core/clock.js')" },
      'only itself and the public',
    ],
    ['an example imports a test', { 'examples/a.ts': "import '../test/a.js'" }, 'only itself and the public'],
    [
      'a test of internal reaches a primitive',
      { 'test/internal/a.test.ts': "import '../../src/batcher/async-batcher.js'" },
      'only itself and the public',
    ],
    ['a test imports what is not exported', { 'test/a.test.ts': "import 'spillway/core'" }, 'exports no ./core'],
    ['a benchmark imports what is not declared', { 'bench/a.ts': "import '@scope/left-pad/x'" }, '@scope/left-pad'],
    ['a module of Node has no node: before it', { 'test/a.test.ts': "import 'fs'" }, 'as node:fs'],
    [
      'a primitive imports a module of Node',
      { 'src/batcher/a.ts': "import 'node:async_hooks'" },
      'only adapters may import modules of Node',
    ],
    [
      "the root entry's reach has a module of Node",
      {
        'src/index.ts': "export * from './batcher/a.js'",
        'src/batcher/a.ts': "import '../internal/b.js'",
        'src/internal/b.ts': "import type { X } from 'node:timers'",
      },
      'reaches it (src/index.ts -> src/batcher/a.ts -> src/internal/b.ts)',
    ],
    [
      'the root entry has code',
      { 'src/index.ts': "import './core/a.js'\nexport const a = 1" },
      'src/index.ts:2 is more',
    ],
    [
      'two files import each other',
      { 'src/core/a.ts': "import './b.js'", 'src/core/b.ts': "import './a.js'" },
      'src/core/b.ts:1 closes a cycle: src/core/a.ts -> src/core/b.ts -> src/core/a.ts',
    ],
    [
      'three files import each other, one as a type',
      {
        'src/core/a.ts': "import './b.js'",
        'src/core/b.ts': "export { c } from './c.js'",
        'src/core/c.ts': "import type { A } from './a.js'",
      },
      'closes a cycle: src/core/a.ts -> src/core/b.ts -> src/core/c.ts -> src/core/a.ts',
    ],
  ])('fails where %s', (_what, files, message) => {
    const found = violations(files)
    const [path] = Object.keys(files)

    expect(found.join('\n')).toContain(message)
    expect(found.join('\n')).toContain(path)
  })
})
