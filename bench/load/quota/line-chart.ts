import { escapeXml } from '../../harness/bar-chart.ts'

/** One line of a chart. */
export interface Line {
  readonly name: string
  readonly color: string
  /** Thin and dashed beside the others. */
  readonly light?: boolean
  /** In ascending order of x. */
  readonly points: readonly { readonly x: number; readonly y: number }[]
}

/** A part of the x axis that is shaded and says what is different there. */
export interface Band {
  readonly from: number
  readonly until: number
  readonly label: string
}

export interface LineChart {
  readonly title: string
  readonly xLabel: string
  readonly yLabel: string
  readonly xMax: number
  readonly lines: readonly Line[]
  readonly bands: readonly Band[]
}

const [width, height] = [880, 400]
const plot = { left: 70, right: 20, top: 64, bottom: 46 }
const [plotWidth, plotHeight] = [width - plot.left - plot.right, height - plot.top - plot.bottom]
const legendWidth = (width - 20) / 2

/** A chart with a logarithmic y axis over whole powers of ten, as an SVG. */
export function lineChart({ title, xLabel, yLabel, xMax, lines, bands }: LineChart): string {
  const rows = Math.ceil(lines.length / 2)
  const shift = rows * 18
  const total = height + shift
  const [low, high] = decadesOf(lines)
  const x = (value: number): string => (plot.left + (value / xMax) * plotWidth).toFixed(1)
  const y = (value: number): string => {
    const share = (Math.log10(value) - low) / (high - low)
    return (plot.top + shift + (1 - Math.min(1, Math.max(0, share))) * plotHeight).toFixed(1)
  }
  const [top, bottom] = [plot.top + shift, plot.top + shift + plotHeight]
  const parts: string[] = []
  for (const { from, until, label } of bands) {
    parts.push(
      `<rect x="${x(from)}" y="${top}" width="${(Number(x(until)) - Number(x(from))).toFixed(1)}" height="${plotHeight}" fill="#f1ede1"/>`,
      `<text x="${x((from + until) / 2)}" y="${bottom - 8}" text-anchor="middle" fill="#5a6b7b">${escapeXml(label)}</text>`,
    )
  }
  for (let power = low; power <= high; power++) {
    const at = y(10 ** power)
    parts.push(
      `<line x1="${plot.left}" x2="${width - plot.right}" y1="${at}" y2="${at}" stroke="#d5dde5"/>`,
      `<text x="${plot.left - 8}" y="${Number(at) + 5}" text-anchor="end">${10 ** power}</text>`,
    )
  }
  for (const second of ticksOf(xMax)) {
    parts.push(`<text x="${x(second)}" y="${bottom + 18}" text-anchor="middle">${second}</text>`)
  }
  lines.forEach(({ name, color, light, points }, index) => {
    const style = `stroke="${color}" stroke-width="${light ? 1.5 : 2.5}"${light ? ' stroke-dasharray="5 4"' : ''}`
    const path = points.map((point) => `${x(point.x)},${y(point.y)}`).join(' ')
    const [left, line] = [10 + (index % 2) * legendWidth, 44 + Math.floor(index / 2) * 18]
    parts.push(
      `<polyline points="${path}" fill="none" stroke-linejoin="round" ${style}/>`,
      `<line x1="${left}" x2="${left + 28}" y1="${line - 5}" y2="${line - 5}" ${style}/>`,
      `<text x="${left + 36}" y="${line}">${escapeXml(name)}</text>`,
    )
  })
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${total}" width="${width}" height="${total}" role="img" aria-label="${escapeXml(title)}" font-family="system-ui, sans-serif" font-size="14" fill="#1b2733">
<rect width="${width}" height="${total}" fill="#fff"/>
<text x="10" y="22" font-weight="600">${escapeXml(title)}</text>
${parts.join('\n')}
<text x="${plot.left + plotWidth / 2}" y="${total - 8}" text-anchor="middle">${escapeXml(xLabel)}</text>
<text x="16" y="${top + plotHeight / 2}" text-anchor="middle" transform="rotate(-90 16 ${top + plotHeight / 2})">${escapeXml(yLabel)}</text>
</svg>
`
}

/** The powers of ten between which all points lie; at least one decade. */
export function decadesOf(lines: readonly Pick<Line, 'points'>[]): [low: number, high: number] {
  const values = lines.flatMap(({ points }) => points.map(({ y }) => y)).filter((value) => value > 0)
  if (values.length === 0) return [0, 1]
  const low = Math.floor(Math.log10(values.reduce((a, b) => Math.min(a, b))))
  const high = Math.ceil(Math.log10(values.reduce((a, b) => Math.max(a, b))))
  return [low, Math.max(high, low + 1)]
}

/** Whole numbers from 0 to a most, about ten of them. */
function ticksOf(most: number): number[] {
  const step = Math.max(1, Math.ceil(most / 10))
  return Array.from({ length: Math.floor(most / step) + 1 }, (_, index) => index * step)
}
