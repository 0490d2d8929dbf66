import { presetNames } from './presets.ts'
import type { JsonSchema } from './setting.ts'
import { settingOf, settingPaths } from './settings.ts'

/** What a configuration file may be, for editors: they complete its names, and underline what the service would refuse. */
export function configSchema(): JsonSchema {
  const root: Section = { ...emptySection(), title: 'Configuration of counter-billing' }
  root.properties['$schema'] = { type: 'string' }
  root.properties['preset'] = { enum: presetNames, description: 'values that go together', default: 'default' }
  for (const path of settingPaths) {
    const { schema, doc, value } = settingOf(path)
    const names = path.split('.')
    let section = root
    for (const name of names.slice(0, -1)) {
      section.properties[name] ??= emptySection()
      section = section.properties[name] as Section
    }
    section.properties[names.at(-1) as string] = {
      ...schema,
      description: doc,
      ...(value !== undefined && { default: value }),
    }
  }
  return { $schema: 'http://json-schema.org/draft-07/schema#', ...root }
}

interface Section {
  readonly title?: string
  readonly type: 'object'
  readonly additionalProperties: false
  readonly properties: Record<string, JsonSchema | Section>
}

function emptySection(): Section {
  return { type: 'object', additionalProperties: false, properties: {} }
}
