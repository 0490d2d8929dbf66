import { type SettingPath, type SomeValues, settingOf, settingPaths, variableOf } from './settings.ts'

/** What another process of the service finds in its environment to be told these values, and nothing that this one was told. */
export function environmentOf(values: SomeValues): Record<string, string> {
  const env: Record<string, string> = { [variableOf('config')]: '', [variableOf('preset')]: '' }
  for (const path of settingPaths) {
    const { variable } = settingOf(path)
    if (variable !== undefined) env[variable] = ''
    env[variableOf(path)] = textOf(values[path])
  }
  return env
}

/** Those of some values that say how a part is to be, and not where it is or what it talks to: any number of processes may share them. */
export function sharedValues(values: SomeValues): SomeValues {
  const own = /^(?:services|consul|metrics)\.|^log\.file$|^api\.(?:host|\w*[pP]ort)$|^async\.usage\.journal$/
  const paths = settingPaths.filter((path) => !own.test(path) && values[path] !== undefined)
  return Object.fromEntries(paths.map((path: SettingPath) => [path, values[path]]))
}

function textOf(value: SomeValues[SettingPath]): string {
  if (!Array.isArray(value)) return String(value ?? '')
  return value.every((one) => typeof one === 'string') ? value.join(',') : JSON.stringify(value)
}
