import { presetNames, presets } from './presets.ts'
import { type SettingPath, type SomeValues, settingOf, settingPaths } from './settings.ts'

/** The settings as tables in Markdown, one a section, for the README: a test compares them. */
export function configTables(): string {
  const sections = [...new Set(settingPaths.map(sectionOf))]
  return sections.map((section) => tableOf(section)).join('\n\n')
}

/** What the presets change, as a table in Markdown. */
export function presetTable(): string {
  const names = presetNames.filter((name) => name !== 'default')
  const changed = settingPaths.filter((path) => names.some((name) => Object.hasOwn(presets[name], path)))
  const rows = changed.map((path) => [
    `\`${path}\``,
    shown(path, settingOf(path).value),
    ...names.map((name) => shown(path, (presets[name] as SomeValues)[path])),
  ])
  return table(['setting', 'default', ...names.map((name) => `\`${name}\``)], rows)
}

function tableOf(section: string): string {
  const rows = settingPaths
    .filter((path) => sectionOf(path) === section)
    .map((path) => {
      const { doc, rule, value, otherwise, variable, flag } = settingOf(path)
      const also = [flag && `\`--${flag}\``, variable && `\`${variable}\``].filter(Boolean).join(', ')
      return [`\`${path}\``, `${doc}; ${rule}`, value === undefined ? (otherwise ?? 'none') : shown(path, value), also]
    })
  return table([`\`${section}\``, 'what it does, and what it may be', 'default', 'also'], rows)
}

function shown(path: SettingPath, value: unknown): string {
  return value === undefined ? '' : settingOf(path).show(value)
}

function sectionOf(path: SettingPath): string {
  return path.slice(0, path.indexOf('.'))
}

/** A table as Biome formats it: each column as wide as its widest cell. */
function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const escaped = rows.map((row) => row.map((cell) => cell.replaceAll('|', '\\|')))
  const widths = head.map((cell, column) => Math.max(cell.length, ...escaped.map((row) => row[column]?.length ?? 0)))
  const line = (row: readonly string[]): string =>
    `| ${row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(' | ')} |`
  return [line(head), `| ${widths.map((width) => '-'.repeat(width)).join(' | ')} |`, ...escaped.map(line)].join('\n')
}
