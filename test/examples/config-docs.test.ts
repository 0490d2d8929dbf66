import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, onTestFinished, test } from 'vitest'
import { readConfig } from '../../examples/counter-billing/config/config.ts'
import { configSchema } from '../../examples/counter-billing/config/config-schema.ts'
import { configTables, presetTable } from '../../examples/counter-billing/config/config-table.ts'

const example = fileURLToPath(new URL('../../examples/counter-billing/', import.meta.url))
const readme = readFileSync(join(example, 'README.md'), 'utf8')

/** Cells without what pads them. */
const rowsOf = (markdown: string): string[] =>
  markdown
    .split('\n')
    .filter((line) => line.startsWith('|') && !line.startsWith('| -'))
    .map((line) => line.replaceAll(/ +/g, ' '))

describe('the README', () => {
  test('has each setting with what it does, what it may be, and its default', () => {
    const rows = rowsOf(readme)

    for (const row of rowsOf(configTables())) expect(rows).toContain(row)
  })

  test('has what each preset changes', () => {
    const rows = rowsOf(readme)

    for (const row of rowsOf(presetTable())) expect(rows).toContain(row)
  })

  test('knows no setting that isn’t there', () => {
    const documented = rowsOf(readme).flatMap(
      (row) => /^\| `((?:async|pools|cache|query|api|log|metrics|consul|services)\.[\w.]+)`/.exec(row)?.[1] ?? [],
    )
    const known = rowsOf(`${configTables()}\n${presetTable()}`).flatMap((row) => /^\| `([\w.]+)`/.exec(row)?.[1] ?? [])

    expect(new Set(documented)).toEqual(new Set(known.filter((path) => path.includes('.'))))
  })

  test('has a file that the service takes', () => {
    const [, content = ''] = /```jsonc\n([\s\S]*?)```/.exec(readme) ?? []
    const folder = mkdtempSync(join(tmpdir(), 'counter-billing-config-'))
    onTestFinished(() => rmSync(folder, { recursive: true }))
    const file = join(folder, 'service.jsonc')
    writeFileSync(file, content)

    const { values, preset } = readConfig({ env: {}, flags: { config: file } })

    expect([preset, values['async.maxWaitMs'], values['pools.postgres.maxConnections']]).toEqual([
      'high-throughput',
      200,
      16,
    ])
  })
})

test('the schema that editors read is the one of the settings', () => {
  expect(JSON.parse(readFileSync(join(example, 'config/config.schema.json'), 'utf8'))).toEqual(
    JSON.parse(JSON.stringify(configSchema())),
  )
})
