import type { ParseArgsConfig } from 'node:util'
import { settingOf, settingPaths } from './settings.ts'

/** The flags of all settings that have one, and those that say where else to look. */
export const configFlags: NonNullable<ParseArgsConfig['options']> = Object.fromEntries(
  ['config', 'preset', ...settingPaths.map((path) => settingOf(path).flag)]
    .filter((flag) => flag !== undefined)
    .map((flag) => [flag, { type: 'string' as const }]),
)
