import { readFileSync } from 'node:fs'
import { UsageError } from '../command-line.ts'
import { parseJsonc } from './jsonc.ts'
import { type PresetName, presetNames, presets } from './presets.ts'
import {
  type ConfigValues,
  type SettingPath,
  type SomeValues,
  settingOf,
  settingPaths,
  settings,
  variableOf,
  variablePrefix,
} from './settings.ts'

/** What the service is to be like, and who says so. */
export interface Config {
  readonly values: ConfigValues
  /** Where each value is from: a flag, an environment variable, a file, a preset, or `default`. */
  readonly sources: Readonly<Record<SettingPath, string>>
  readonly preset: PresetName
  /** The file that was read. */
  readonly file: string | undefined
}

/** What can't be meant: all of it at once. */
export class ConfigError extends UsageError {
  readonly problems: readonly string[]

  constructor(problems: readonly string[]) {
    super(problems.join('\n'))
    this.problems = problems
  }
}

export interface ConfigInput {
  /** What the command line says, by flag. Those that no setting has are somebody else's. */
  readonly flags?: Readonly<Record<string, unknown>>
  /** The environment; `process.env` by default. */
  readonly env?: Readonly<Record<string, string | undefined>>
  /** What a program wants that nobody else decides: it wins over the defaults, and nothing else. */
  readonly base?: SomeValues
}

/**
 * Reads what the service is to be like. Flags win over the environment, the environment over the file that `--config` or
 * `COUNTER_BILLING_CONFIG` names, the file over the preset, the preset over the defaults.
 *
 * @throws ConfigError with everything that is wrong, each with its path, the rule, what was given and by whom.
 */
export function readConfig({ flags = {}, env = process.env, base = {} }: ConfigInput = {}): Config {
  const reading = new Reading(flags, env)
  const file = textOf(flags['config']) ?? textOf(env[variableOf('config')])
  const given = file === undefined ? new Map<string, unknown>() : reading.file(file)
  const preset = reading.preset(given)
  const values: Record<string, unknown> = {}
  const sources: Record<string, string> = {}
  for (const path of settingPaths) {
    const [value, source] = reading.value(path, given, preset, base)
    values[path] = value
    sources[path] = source
  }
  reading.unknown(given)
  const config = { values, sources, preset, file } as unknown as Config
  const problems = [...reading.problems, ...(reading.problems.length === 0 ? contradictions(config) : [])]
  if (problems.length > 0) throw new ConfigError(problems)
  return config
}

/** Nothing is as good as no word at all: shells have no other way to take a variable back. */
function textOf(given: unknown): string | undefined {
  return typeof given === 'string' && given !== '' ? given : undefined
}

class Reading {
  readonly problems: string[] = []
  readonly #flags: Readonly<Record<string, unknown>>
  readonly #env: Readonly<Record<string, string | undefined>>
  #file = ''

  constructor(flags: Readonly<Record<string, unknown>>, env: Readonly<Record<string, string | undefined>>) {
    this.#flags = flags
    this.#env = env
  }

  /** What a file says, by path. */
  file(name: string): Map<string, unknown> {
    this.#file = name
    try {
      const content = parseJsonc(readFileSync(name, 'utf8'))
      if (isObject(content)) return new Map(flat(content))
      this.problems.push(`${name} must be a JSON object of sections, got ${shown(content)}`)
    } catch (error) {
      this.problems.push(`${name} can't be read: ${(error as Error).message}`)
    }
    return new Map()
  }

  preset(given: ReadonlyMap<string, unknown>): PresetName {
    const flag = textOf(this.#flags['preset'])
    const variable = textOf(this.#env[variableOf('preset')])
    const name = flag ?? variable ?? given.get('preset') ?? 'default'
    const found = presetNames.find((known) => known === name)
    if (found !== undefined) return found
    const source = flag !== undefined ? '--preset' : variable !== undefined ? variableOf('preset') : this.#file
    this.problems.push(`preset must be one of ${presetNames.join(', ')}, got ${shown(name)} (${source})`)
    return 'default'
  }

  /** The value of a setting, and who says it. */
  value(
    path: SettingPath,
    given: ReadonlyMap<string, unknown>,
    preset: PresetName,
    base: SomeValues,
  ): readonly [unknown, string] {
    const { flag, variable, parse, value } = settingOf(path)
    const text = flag === undefined ? undefined : textOf(this.#flags[flag])
    if (text !== undefined) return this.#accepted(path, parse(text), text, `--${flag}`)
    // Its own name is the more exact one, so it wins over the one that others know, too.
    for (const name of [variableOf(path), variable]) {
      const said = name === undefined ? undefined : textOf(this.#env[name])
      if (said !== undefined) return this.#accepted(path, parse(said), said, name as string)
    }
    if (given.has(path)) return this.#accepted(path, given.get(path), given.get(path), this.#file)
    const ofPreset = presets[preset] as SomeValues
    if (Object.hasOwn(ofPreset, path)) return [ofPreset[path], `preset ${preset}`]
    return Object.hasOwn(base, path) ? [base[path], 'program'] : [value, 'default']
  }

  /** Names that nobody knows: what is misspelt must not be passed over. */
  unknown(given: ReadonlyMap<string, unknown>): void {
    const known: readonly string[] = settingPaths
    const isSchema = (path: string): boolean => path === '$schema' || path === 'preset'
    for (const [path, value] of given) {
      if (known.includes(path) || isSchema(path)) continue
      const under = known.filter((other) => other.startsWith(`${path}.`))
      if (under.length > 0) {
        if (isObject(value)) continue
        const isSecret = under.some((other) => settingOf(other as SettingPath).isSecret)
        this.#refuse(path, 'an object', value, isSecret, this.#file)
        continue
      }
      this.problems.push(
        `${path} is no setting${meant(path, [...known, ...known.map((other) => other.replace(/\..*/, ''))])} (${this.#file})`,
      )
    }
    const variables = [...known, 'config', 'preset'].map(variableOf)
    for (const name of Object.keys(this.#env)) {
      if (!name.startsWith(variablePrefix) || variables.includes(name) || this.#env[name] === '') continue
      this.problems.push(`${name} is no setting${meant(name, variables)} (environment)`)
    }
  }

  #accepted(path: SettingPath, value: unknown, given: unknown, source: string): readonly [unknown, string] {
    const { accept, rule, isSecret } = settingOf(path)
    const accepted = accept(value)
    if (accepted === undefined) this.#refuse(path, rule, given, isSecret, source)
    return [accepted, source]
  }

  #refuse(path: string, rule: string, given: unknown, isSecret = false, source: string): void {
    this.problems.push(`${path} must be ${rule}${isSecret ? '' : `, got ${shown(given)}`} (${source})`)
  }
}

/** Values that don't go together. */
function contradictions({ values, sources }: Config): string[] {
  const atMost: readonly (readonly [SettingPath, SettingPath])[] = [
    ['async.maxBatchSize', 'async.capacity'],
    ['async.answers.maxBatchSize', 'async.capacity'],
    ['async.usage.maxBatchSize', 'async.usage.capacity'],
    ['pools.postgres.minConnections', 'pools.postgres.maxConnections'],
    ['query.defaultPageSize', 'query.maxPageSize'],
    ['api.headersTimeoutMs', 'api.requestTimeoutMs'],
  ]
  const problems = atMost
    .filter(([less, more]) => Number(values[less]) > Number(values[more]))
    .map(
      ([less, more]) =>
        `${less} must be at most ${more} (${values[more]}, ${sources[more]}), got ${values[less]} (${sources[less]})`,
    )
  if (values['services.databaseUrl'] !== undefined && values['services.dataDir'] !== undefined) {
    problems.push(
      `services.dataDir (${sources['services.dataDir']}) is for PGlite, but services.databaseUrl (${sources['services.databaseUrl']}) names a server: take one of them away`,
    )
  }
  return problems
}

/** Members by path, down to what a setting may be. */
function flat(content: Readonly<Record<string, unknown>>, under = ''): [string, unknown][] {
  return Object.entries(content).flatMap(([name, value]): [string, unknown][] => {
    const path = `${under}${name}`
    if (!isObject(value) || Object.hasOwn(settings, path) || Object.keys(value).length === 0) return [[path, value]]
    return flat(value, `${path}.`)
  })
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** A value as it was written, cut short. */
function shown(value: unknown): string {
  const json = JSON.stringify(value) ?? String(value)
  return json.length > 60 ? `${json.slice(0, 60)}…` : json
}

/** The name that differs least, if that is little. */
function meant(name: string, known: readonly string[]): string {
  const near = known.map((other) => [distance(name, other), other] as const).sort(([a], [b]) => a - b)[0]
  return near !== undefined && near[0] <= Math.max(2, name.length / 5) ? `; did you mean ${near[1]}?` : ''
}

/** Insertions, deletions and replacements between two words (Levenshtein). */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const replaced = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)
      next.push(Math.min(replaced, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1))
    }
    row = next
  }
  return row[b.length] ?? 0
}
