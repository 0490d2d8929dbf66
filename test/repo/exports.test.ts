import { describe, expect, it } from 'vitest'
import { checkDocumented, checkEntries, entriesOf } from './checks/exports.js'
import { type FileTree, readTree, textOf, treeOf, withFiles } from './checks/file-tree.js'

const compileMs = 120_000

/** The real tree with one text of a file replaced by another. */
function changed(path: string, from: string | RegExp, to: string): FileTree {
  const tree = readTree()
  const text = textOf(tree, path)
  expect(text).toMatch(from)
  return withFiles(tree, { [path]: text.replace(from, to) })
}

describe('the lists of entries', () => {
  it('agree with the files of src', () => {
    expect(checkEntries(readTree())).toEqual([])
  })

  it('are the root, the testing tools and one sub-path an adapter', () => {
    const entries = entriesOf(treeOf({ ...Object.fromEntries(readTree()), 'src/adapters/redis/index.ts': '' }))

    expect(Object.fromEntries(entries)).toMatchObject({
      '.': 'src/index.ts',
      './process': 'src/adapters/process/index.ts',
      './testing': 'src/testing/index.ts',
      './redis': 'src/adapters/redis/index.ts',
    })
  })

  it('fail where an adapter is in no list', () => {
    const found = checkEntries(withFiles(readTree(), { 'src/adapters/carrier-pigeon/index.ts': '' }))

    expect(found).toEqual([
      'package.json lacks ./carrier-pigeon in exports, which the files of src ask for',
      'tsup.config.ts lacks carrier-pigeon in entry, which the files of src ask for',
      'typedoc.json lacks src/adapters/carrier-pigeon/index.ts in entryPoints, which the files of src ask for',
      'tsconfig.check.json lacks spillway/carrier-pigeon in paths, which the files of src ask for',
    ])
  })

  it('fail where package.json exports what src has not', () => {
    const found = checkEntries(changed('package.json', '"exports": {', '"exports": { "./ghost": "./dist/ghost.js",'))

    expect(found).toEqual(['package.json has ./ghost in exports, but src has no entry for it'])
  })

  it('fail where a condition leads to the wrong file, or comes in the wrong order', () => {
    const wrongFile = checkEntries(changed('package.json', './dist/testing.d.cts', './dist/testing.d.ts'))
    const wrongOrder = checkEntries(
      changed('package.json', /("types": "\.\/dist\/process\.d\.ts"),\s*("default": "[^"]*")/, '$2, $1'),
    )

    expect(wrongFile).toEqual([expect.stringMatching(/^package\.json has in exports \.\/testing: /)])
    expect(wrongOrder).toEqual([expect.stringMatching(/^package\.json has in exports \.\/process: /)])
  })

  it('fail where tsup, typedoc or the tests build something else', () => {
    expect(checkEntries(changed('tsup.config.ts', "testing: 'src/testing/index.ts'", ''))).toEqual([
      'tsup.config.ts lacks testing in entry, which the files of src ask for',
    ])
    expect(checkEntries(changed('typedoc.json', 'src/testing/index.ts', 'src/core/clock.ts'))).toEqual([
      'typedoc.json lacks src/testing/index.ts in entryPoints, which the files of src ask for',
      'typedoc.json has src/core/clock.ts in entryPoints, but src has no entry for it',
    ])
    expect(checkEntries(changed('tsconfig.check.json', './src/testing/index.ts', './dist/testing.js'))).toEqual([
      expect.stringMatching(/^tsconfig\.check\.json has in paths spillway\/testing: /),
    ])
  })
})

describe('every export', () => {
  it('has a doc comment, and its members too', { timeout: compileMs }, () => {
    expect(checkDocumented(readTree())).toEqual([])
  })

  it('fails without one', { timeout: compileMs }, () => {
    const tree = withFiles(readTree(), {
      'src/index.ts': "export { Bare, told } from './core/bare.js'\nexport type * from './core/bare.js'\n",
      'src/core/bare.ts': [
        'export class Bare {',
        '  open(): void {}',
        '  #hidden = 1',
        '  private secret = 2',
        '  /** Closes it. */',
        '  close(): number { return this.#hidden + this.secret }',
        '}',
        '/** Told. */',
        'export const told = 1',
        '// Not a doc comment.',
        'export interface BareOptions {',
        '  /** The name. */',
        '  name: string',
        '  size: number',
        '}',
      ].join('\n'),
      'src/testing/index.ts': '',
    })

    expect(checkDocumented(tree)).toEqual([
      'src/core/bare.ts:1 Bare is exported and has no doc comment',
      'src/core/bare.ts:2 Bare.open is exported and has no doc comment',
      'src/core/bare.ts:11 BareOptions is exported and has no doc comment',
      'src/core/bare.ts:14 BareOptions.size is exported and has no doc comment',
      'src/testing/index.ts exports nothing, but is the entry of ./testing',
    ])
  })
})
