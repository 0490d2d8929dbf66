import { describe, expect, it } from 'vitest'
import { checkSnippetRun, checkSnippetText, runSnippet, snippetsOf } from './checks/examples.js'
import { readTree, textOf } from './checks/file-tree.js'

const runMs = 200_000
const seeded = 'test/repo/seeded/snippets'
const tree = readTree()

describe('the snippets', () => {
  it('are there, one a primitive at least', () => {
    expect(snippetsOf(tree)).toEqual(
      expect.arrayContaining(['examples/snippets/async-batcher.ts', 'examples/snippets/async-write-buffer.ts']),
    )
  })

  it.each(snippetsOf(tree))('%s is short, and asserts what it prints', (path) => {
    expect(checkSnippetText(path, textOf(tree, path))).toEqual([])
  })

  it.concurrent.each(snippetsOf(tree))('%s runs', { timeout: runMs }, async (path) => {
    expect(checkSnippetRun(path, await runSnippet(path))).toEqual([])
  })
})

describe('a seeded snippet', () => {
  it.concurrent('fails when what it asserts is not so', { timeout: runMs }, async () => {
    const path = `${seeded}/wrong.ts`

    const found = checkSnippetRun(path, await runSnippet(path))

    expect(found).toEqual([
      expect.stringMatching(/^test\/repo\/seeded\/snippets\/wrong\.ts ended with exit code 1: [\s\S]*AssertionError/),
    ])
  })

  it.concurrent('fails when it prints nothing', { timeout: runMs }, async () => {
    const path = `${seeded}/silent.ts`

    expect(checkSnippetRun(path, await runSnippet(path))).toEqual([
      `${path} printed nothing: a snippet shows what happens`,
    ])
    expect(checkSnippetText(path, textOf(tree, path))).toEqual([`${path} prints nothing: a snippet shows what happens`])
  })

  it.concurrent('fails when the package warns it', { timeout: runMs }, async () => {
    const path = `${seeded}/warned.ts`

    expect(checkSnippetRun(path, await runSnippet(path))).toEqual([
      expect.stringMatching(/^test\/repo\/seeded\/snippets\/warned\.ts got a warning: [\s\S]*SpillwayWarning/),
    ])
  })

  it('fails when it asserts nothing', () => {
    const path = `${seeded}/credulous.ts`

    expect(checkSnippetText(path, textOf(tree, path))).toEqual([
      `${path} asserts nothing: a snippet holds what it expects`,
    ])
  })

  it('fails when it has 60 lines, and not when it has 59', () => {
    const text = "import assert from 'node:assert/strict'\nassert.ok(1)\nconsole.log(1)\n"

    expect(checkSnippetText('long.ts', text + '//\n'.repeat(57))).toEqual([
      'long.ts has 60 lines: a snippet has at most 59',
    ])
    expect(checkSnippetText('long.ts', text + '//\n'.repeat(56))).toEqual([])
  })

  it('fails when it never ends', () => {
    const found = checkSnippetRun('endless.ts', { code: null, stdout: 'begun\n', stderr: '' })

    expect(found).toEqual([expect.stringContaining('endless.ts did not end within')])
  })
})
