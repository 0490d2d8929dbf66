import { describe, expect, it } from 'vitest'
import { checkDefaults } from './checks/defaults.js'
import { type FileTree, readTree, textOf, treeOf, withFiles } from './checks/file-tree.js'

const batcher = 'src/batcher/async-batcher.ts'

/** The real tree with one text of a file replaced by another. */
function changed(path: string, from: string, to: string): FileTree {
  const tree = readTree()
  const text = textOf(tree, path)
  expect(text).toContain(from)
  return withFiles(tree, { [path]: text.replace(from, to) })
}

describe('the documented defaults', () => {
  it('are those of the code', () => {
    expect(checkDefaults(readTree())).toEqual([])
  })

  it('are found in the primitives and in the adapters', () => {
    const real = readTree()
    const without = new Map([...real].map(([path, text]) => [path, text.replaceAll('@defaultValue', '@remarks')]))

    const found = checkDefaults(without).join('\n')

    expect(found).toContain('AsyncBatcher.defaults.maxBatchSize is 100, but AsyncBatcherOptions.maxBatchSize')
    expect(found).toContain('AsyncWriteBuffer.defaults.retry is { attempts: 3, delayMs: 100, maxDelayMs: 30000 }')
    expect(found).toContain('closeOnExitDefaults.signals is ["SIGTERM", "SIGINT"]')
  })

  it('fail where a doc says another value than the code', () => {
    const found = checkDefaults(changed(batcher, '@defaultValue 100', '@defaultValue 1000'))

    expect(found).toEqual([
      expect.stringMatching(
        /^src\/batcher\/async-batcher\.ts:\d+ maxBatchSize says @defaultValue 1000, but AsyncBatcher\.defaults\.maxBatchSize is 100$/,
      ),
    ])
  })

  it('fail where the code has a default that no doc tells', () => {
    const found = checkDefaults(changed(batcher, '@defaultValue true', 'On by default.'))

    expect(found).toEqual([
      expect.stringMatching(
        /^src\/batcher\/async-batcher\.ts:\d+ AsyncBatcher\.defaults\.eager is true, but .* no @defaultValue$/,
      ),
    ])
  })

  it('fail where a doc tells a default that the code has not', () => {
    const found = checkDefaults(changed('src/adapters/process/close-on-exit.ts', '  timeoutMs: 10_000,\n', ''))

    expect(found).toEqual([
      expect.stringMatching(
        /^src\/adapters\/process\/close-on-exit\.ts:\d+ timeoutMs says @defaultValue 10_000, but .* has no timeoutMs$/,
      ),
    ])
  })

  it('fail where nothing holds what a doc tells', () => {
    const tree = treeOf({
      'src/log/log.ts':
        '/** Options. */\nexport interface LogOptions {\n  /** @defaultValue 3 */\n  lines?: number\n}\n',
    })

    expect(checkDefaults(tree)).toEqual([
      'src/log/log.ts:3 LogOptions.lines has a @defaultValue, but no exported defaults of LogOptions hold it',
    ])
  })

  it('may be inherited, computed, and written in any form', () => {
    const tree = treeOf({
      'src/internal/base.ts': 'export interface BaseOptions {\n  /** @defaultValue 3_600_000 */\n  ttlMs?: number\n}\n',
      'src/log/log.ts': `
        export interface LogOptions<T> extends BaseOptions {
          /** @defaultValue { b: 'x', a: [1, -2] } */
          nested?: T
        }
        export class Log {
          static readonly defaults = { nested: { a: [1, -2], b: "x" }, ttlMs: 60 * 60 * 1000 } as const
        }`,
    })

    expect(checkDefaults(tree)).toEqual([])
  })
})
