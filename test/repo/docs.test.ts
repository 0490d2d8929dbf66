import { describe, expect, it } from 'vitest'
import { checkFences, checkLinks, fencesOf } from './checks/docs.js'
import { readTree, treeOf } from './checks/file-tree.js'

// A program reads the libraries' types, which takes seconds on a slow machine.
const compileMs = 120_000

describe('ts fences', () => {
  it('compile, every one in the pages and in the doc comments of src', { timeout: compileMs }, () => {
    expect(checkFences(readTree())).toEqual([])
  })

  it('are found in doc comments', () => {
    const paths = fencesOf(readTree()).map((fence) => fence.path)

    expect(paths).toContain('src/batcher/async-batcher.ts')
    expect(paths).toContain('src/testing/fake-clock.ts')
  })

  it('fail where the package is used wrongly, on the line where it is', { timeout: compileMs }, () => {
    const tree = treeOf({
      'README.md': [
        '# A page',
        '```ts',
        "import { AsyncBatcher } from 'spillway'",
        '',
        'const batcher = new AsyncBatcher(async (n: number[]) => n, { maxWaitSeconds: 1 })',
        "await batcher.add('one')",
        '```',
        '```js',
        'this is no TypeScript',
        '```',
      ].join('\n'),
      'docs/guides/queue.md': '- In a list:\n\n  ```ts\n  const a: number = "one"\n  ```\n',
      'docs/guides/good.md': "```ts\nimport { closeOnExit } from 'spillway/process'\n\ncloseOnExit([])\n```\n",
      'docs/guides/names.md': '```ts\nconst a = 1\n```\n\n```ts\nconst a = 2\nawait Promise.resolve(a)\n```\n',
      'src/log/log.ts':
        '/**\n * Logs.\n *\n * @example\n * ```ts\n * const batcher = 1\n * batcher.add()\n * ```\n */\nexport class Log {}\n',
    })

    const found = checkFences(tree)

    expect(found).toEqual([
      expect.stringMatching(/^README\.md:5 a ts fence must compile: .*maxWaitSeconds/),
      expect.stringMatching(/^README\.md:6 a ts fence must compile: .*'string' is not assignable .* 'number'/),
      expect.stringMatching(/^docs\/guides\/queue\.md:4 a ts fence must compile: Type 'string' is not assignable/),
      expect.stringMatching(/^src\/log\/log\.ts:7 a ts fence must compile: Property 'add' does not exist/),
    ])
  })

  it('fail where one uses what another one declares', { timeout: compileMs }, () => {
    const tree = treeOf({ 'docs/a.md': '```ts\nexport const a = 1\n```\n\n```ts\nconsole.log(a)\n```\n' })

    expect(checkFences(tree)).toEqual(["docs/a.md:6 a ts fence must compile: Cannot find name 'a'."])
  })
})

describe('links', () => {
  it('of every page lead somewhere', () => {
    expect(checkLinks(readTree())).toEqual([])
  })

  it('fail where there is no such file, heading or clean clone', () => {
    const tree = treeOf({
      'README.md': [
        '# Title',
        'See [a guide](docs/guides/a.md), [its end](docs/guides/a.md#the-end-of-it) and [docs](docs).',
        '[Gone](docs/guides/b.md) and [no such heading](docs/guides/a.md#the-middle) and [here](#title).',
        '[The reference](docs/api/index.html), ![a picture](docs/missing.png "title"), [absolute](/docs/guides/a.md)',
        '`[not](a-link.md)` [outside](https://example.com/x.md) <img src="docs/also-missing.svg">',
        '```md',
        '[nor](this.md)',
        '```',
        '[ref]: docs/nowhere.md',
      ].join('\n'),
      'docs/guides/a.md': '# A\n\n## The `end` of it!\n\n[up](../../README.md#title) [twice](#a-1)\n\n# A\n',
    })

    expect(checkLinks(tree)).toEqual([
      'README.md:3 links to docs/guides/b.md: there is no docs/guides/b.md',
      'README.md:3 links to docs/guides/a.md#the-middle: docs/guides/a.md has no heading #the-middle',
      'README.md:4 links to docs/api/index.html: there is no docs/api/index.html',
      'README.md:4 links to docs/missing.png: there is no docs/missing.png',
      'README.md:4 links to /docs/guides/a.md: a link within the repository is relative',
      'README.md:9 links to docs/nowhere.md: there is no docs/nowhere.md',
      'README.md:5 links to docs/also-missing.svg: there is no docs/also-missing.svg',
    ])
  })
})
