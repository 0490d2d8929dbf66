import { describe, expect, test } from 'vitest'
import { runSnippet } from './checks/examples.js'
import { readTree, textOf } from './checks/file-tree.js'

const tree = readTree()
const page = textOf(tree, 'docs/guides/tuning.md')

/** A row of a table without what pads it. */
const bare = (row: string): string => row.replace(/ +/g, ' ').trim()

describe('docs/guides/tuning.md', () => {
  test('has the table that its snippet prints', { timeout: 200_000 }, async () => {
    const lines = new Set(page.split('\n').map(bare))

    const { code, stdout } = await runSnippet('examples/snippets/tuning.ts')

    expect(code).toBe(0)
    const rows = stdout.trim().split('\n').map(bare)
    expect(rows).toHaveLength(4)
    expect(rows.filter((row) => !lines.has(row))).toEqual([])
  })

  // A machine with other work to do moves a ratio: what the page says may be somewhat older than the table.
  test('says of each suite about what the bench has written', () => {
    const measured = new Map<string, number[]>()
    for (const [, suite = '', ratio = ''] of textOf(tree, 'docs/design/performance.md').matchAll(
      /^\| ([\w-]+) +\|.*\| +([\d.]+) x [\w ]+\|$/gm,
    )) {
      measured.set(suite, [...(measured.get(suite) ?? []), Number(ratio)])
    }
    let figures = 0
    const unknown: string[] = []
    for (const paragraph of page.replace(/^```[\s\S]*?^```$/gm, '').split(/\n(?=\n|- )/)) {
      const suites = [...paragraph.matchAll(/`([\w-]+)`/g)]
        .map(([, name = '']) => name)
        .filter((it) => measured.has(it))
      if (suites.length === 0) continue
      for (const [figure] of paragraph.replace(/`[^`]*`/g, '').matchAll(/\b\d+\.\d+\b/g)) {
        figures++
        const near = (ratio: number): boolean => Math.abs(Number(figure) / ratio - 1) < 0.3
        if (!suites.some((suite) => measured.get(suite)?.some(near))) unknown.push(`${figure} of ${suites.join(', ')}`)
      }
    }

    expect(unknown).toEqual([])
    expect(figures).toBeGreaterThan(8)
  })
})
