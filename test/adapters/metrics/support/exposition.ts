/** One line of values. */
export interface ExposedSample {
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
}

/** A metric with its lines. */
export interface ExposedFamily {
  readonly name: string
  readonly type: string
  readonly help: string
  readonly samples: ExposedSample[]
}

const metricName = /^[a-zA-Z_:][a-zA-Z0-9_:]*$/
const labelName = /^[a-zA-Z_][a-zA-Z0-9_]*$/
const suffixes: Readonly<Record<string, readonly string[]>> = {
  counter: [''],
  gauge: [''],
  summary: ['', '_sum', '_count'],
  histogram: ['_bucket', '_sum', '_count'],
}

/**
 * Reads the text format, or OpenMetrics, as strictly as `promtool check metrics` does.
 *
 * @throws Error at the first line that is wrong.
 */
export function parseExposition(text: string, openMetrics = false): Map<string, ExposedFamily> {
  const families = new Map<string, { name: string; type?: string; help?: string; samples: ExposedSample[] }>()
  const series = new Set<string>()
  let current: { name: string; type?: string; help?: string; samples: ExposedSample[] } | undefined
  const lines = text.split('\n')
  check(lines.pop() === '', 'the text ends with a line feed')
  if (openMetrics) check(lines.pop() === '# EOF', 'OpenMetrics ends with # EOF')
  for (const line of lines) {
    if (line === '') {
      check(!openMetrics, 'OpenMetrics has no empty lines')
      continue
    }
    const meta = /^# (HELP|TYPE) (\S+)(?: (.*))?$/.exec(line)
    if (meta !== null) {
      const [, kind, name = '', rest = ''] = meta
      check(metricName.test(name), `a name: ${line}`)
      if (kind === 'HELP') {
        check(!families.has(name), `HELP comes once: ${line}`)
        current = { name, help: unescaped(rest), samples: [] }
        families.set(name, current)
      } else {
        check(current?.name === name && current.type === undefined, `TYPE follows its HELP, once: ${line}`)
        check(current.samples.length === 0, `TYPE comes before the samples: ${line}`)
        check(rest in suffixes, `a type: ${line}`)
        current.type = rest
      }
      continue
    }
    check(current?.type !== undefined && current.help !== '', `samples follow their HELP and TYPE: ${line}`)
    const sample = parseSample(line)
    const allowed = openMetrics && current.type === 'counter' ? ['_total'] : (suffixes[current.type] ?? [])
    const name = current.name
    check(
      allowed.some((suffix) => sample.name === `${name}${suffix}`),
      `a sample of ${name}: ${line}`,
    )
    if (current.type === 'counter') {
      check(sample.name.endsWith('_total'), `a counter ends in _total: ${line}`)
      check(sample.value >= 0, `a counter is no less than 0: ${line}`)
    }
    if (current.type === 'summary' && sample.name === name) {
      const quantile = Number(sample.labels['quantile'])
      check(quantile >= 0 && quantile <= 1, `a quantile: ${line}`)
    } else check(!('quantile' in sample.labels), `only a summary has quantiles: ${line}`)
    check(sample.name.endsWith('_bucket') === 'le' in sample.labels, `a bucket has a bound: ${line}`)
    const key = JSON.stringify([sample.name, Object.entries(sample.labels).sort()])
    check(!series.has(key), `a series comes once: ${line}`)
    series.add(key)
    current.samples.push(sample)
  }
  for (const family of families.values()) checkHistogram(family as ExposedFamily)
  return families as Map<string, ExposedFamily>
}

/** The value of the one series with these labels; undefined where there is none. */
export function exposed(
  families: ReadonlyMap<string, ExposedFamily>,
  name: string,
  labels: Readonly<Record<string, string>> = {},
): number | undefined {
  const found = [...families.values()]
    .flatMap(({ samples }) => samples)
    .filter((one) => one.name === name && Object.entries(labels).every(([key, value]) => one.labels[key] === value))
  if (found.length > 1) throw new Error(`${name} has ${found.length} series of ${JSON.stringify(labels)}`)
  return found[0]?.value
}

function parseSample(line: string): ExposedSample {
  const name = /^[^{ ]+/.exec(line)?.[0] ?? ''
  check(metricName.test(name), `a name: ${line}`)
  const labels: Record<string, string> = {}
  let at = name.length
  if (line[at] === '{') {
    at++
    while (line[at] !== '}') {
      const rest = line.slice(at)
      const match = /^([^=]+)="((?:[^"\\\n]|\\["\\n])*)"(,|(?=\}))/.exec(rest)
      check(match !== null, `a label: ${line}`)
      const [whole, key = '', value = ''] = match
      check(labelName.test(key) && !(key in labels), `a label's name, once: ${line}`)
      labels[key] = unescaped(value)
      at += whole.length
    }
    at++
  }
  check(line[at] === ' ', `a value: ${line}`)
  const text = line.slice(at + 1)
  check(/^(-?(\d+(\.\d+)?|\.\d+)(e[+-]?\d+)?|[+-]Inf|NaN)$/.test(text), `a value: ${line}`)
  return { name, labels, value: text === '+Inf' ? Number.POSITIVE_INFINITY : Number(text) }
}

/** Buckets are cumulative, end with +Inf, and the last one is the count. */
function checkHistogram({ name, type, samples }: ExposedFamily): void {
  if (type !== 'histogram') return
  const bySeries = new Map<string, { bounds: [number, number][]; sum?: number; count?: number }>()
  for (const { name: sampleName, labels, value } of samples) {
    const { le, ...others } = labels
    const key = JSON.stringify(Object.entries(others).sort())
    const one = bySeries.get(key) ?? { bounds: [] }
    bySeries.set(key, one)
    if (le !== undefined) one.bounds.push([le === '+Inf' ? Number.POSITIVE_INFINITY : Number(le), value])
    else if (sampleName.endsWith('_sum')) one.sum = value
    else one.count = value
  }
  for (const [key, { bounds, sum, count }] of bySeries) {
    check(sum !== undefined && count !== undefined, `${name}${key} has a sum and a count`)
    check(bounds.at(-1)?.[0] === Number.POSITIVE_INFINITY, `${name}${key} ends with +Inf`)
    check(bounds.at(-1)?.[1] === count, `${name}${key} has its count in +Inf`)
    bounds.forEach(([bound, value], index) => {
      const before = bounds[index - 1]
      check(before === undefined || (before[0] < bound && before[1] <= value), `${name}${key} is cumulative`)
    })
  }
}

function unescaped(text: string): string {
  return text.replace(/\\(["\\n])/g, (_, escaped: string) => (escaped === 'n' ? '\n' : escaped))
}

function check(condition: boolean, rule: string): asserts condition {
  if (!condition) throw new Error(rule)
}
