/** What a scrape brought: the type of each family, and the value of each series by its name and labels as they are written. */
export interface Exposition {
  readonly types: ReadonlyMap<string, string>
  readonly series: ReadonlyMap<string, number>
  /** The sum of a metric's series whose labels have these values. */
  sum(name: string, labels?: Readonly<Record<string, string>>): number
}

const sample = /^([a-zA-Z_:][\w:]*)(\{[^\n]*\})? (\S+)$/
const labels = /^\{(?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\["\\n])*",?)+\}$/

/** Reads the text format of Prometheus, version 0.0.4, and throws at what a scraper would refuse. */
export function readExposition(text: string): Exposition {
  if (!text.endsWith('\n')) throw new Error('the last line has no end')
  const types = new Map<string, string>()
  const helped = new Set<string>()
  const series = new Map<string, number>()
  for (const line of text.split('\n').filter((line) => line !== '')) {
    const [, kind, family = '', rest = ''] = /^# (HELP|TYPE) (\S+) (.*)$/.exec(line) ?? []
    if (kind === 'HELP') helped.add(once(helped, family, line))
    else if (kind === 'TYPE') types.set(once(types, family, line), rest)
    else addSample(line, types, series)
  }
  for (const family of types.keys()) if (!helped.has(family)) throw new Error(`${family} has no HELP`)
  const sum: Exposition['sum'] = (name, wanted = {}) => {
    const needed = Object.entries(wanted).map(([label, value]) => `${label}="${value}"`)
    const found = [...series].filter(
      ([key]) => (key === name || key.startsWith(`${name}{`)) && needed.every((label) => key.includes(label)),
    )
    return found.reduce((total, [, value]) => total + value, 0)
  }
  return { types, series, sum }
}

function once(seen: { has(family: string): boolean }, family: string, line: string): string {
  if (seen.has(family)) throw new Error(`twice: ${line}`)
  return family
}

function addSample(line: string, types: ReadonlyMap<string, string>, series: Map<string, number>): void {
  const [, name = '', written = '', value = ''] = sample.exec(line) ?? []
  if (name === '' || (written !== '' && !labels.test(written))) throw new Error(`no sample: ${line}`)
  const family = [name, name.replace(/_(?:bucket|sum|count)$/, '')].find((one) => types.has(one))
  if (family === undefined) throw new Error(`a sample before its TYPE: ${line}`)
  if (types.get(family) === 'counter' && !name.endsWith('_total')) throw new Error(`a counter without _total: ${line}`)
  if (!/^(?:Nan|[+-]?(?:Inf|[\d.]+(?:e[+-]?\d+)?))$/i.test(value)) throw new Error(`no number: ${line}`)
  if (series.has(name + written)) throw new Error(`twice: ${line}`)
  series.set(name + written, Number(value))
}
