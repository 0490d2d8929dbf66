import type { Config } from './config.ts'
import { settingOf, settingPaths } from './settings.ts'

/** Each setting, its value and who says so, a line each; no secret. */
export function configText({ values, sources, preset, file }: Config): string {
  const rows = settingPaths.map((path) => {
    const value = values[path]
    const { show, otherwise } = settingOf(path)
    return [path, value === undefined ? `– (${otherwise ?? 'unset'})` : show(value), sources[path]] as const
  })
  const widths = [0, 1].map((column) => Math.max(...rows.map((row) => Math.min(50, row[column]?.length ?? 0))))
  const lines = rows.map(([path, value, source]) =>
    `${path.padEnd(widths[0] ?? 0)}  ${value.padEnd(widths[1] ?? 0)}  ${source}`.trimEnd(),
  )
  return [`# preset ${preset}${file === undefined ? ', no file' : `, ${file}`}`, ...lines].join('\n')
}
