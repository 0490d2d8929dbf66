/** One bar. */
export interface Bar {
  /** Its length, from 0 to 1. */
  readonly share: number
  readonly label: string
  readonly color: string
  readonly light?: boolean
}

/** Bars under one name. */
export interface BarGroup {
  readonly name: string
  readonly bars: readonly Bar[]
}

/** Ours, what we are beside, and what does it badly on purpose. */
export const colors = { ours: '#0b7a75', peer: '#7b8794', naive: '#b5483a' } as const

const [width, labelWidth, barHeight, gap] = [880, 100, 20, 14]
/** How wide a character of a name is, about, and how wide a column of names may get. */
const [characterWidth, maxNameWidth] = [7.8, 460]

/** Horizontal bars, as an SVG that stands alone. */
export function barChart(title: string, groups: readonly BarGroup[]): string {
  const longest = Math.max(...groups.map(({ name }) => name.length))
  const nameWidth = Math.min(maxNameWidth, Math.ceil(longest * characterWidth) + 20)
  let y = 40
  const parts: string[] = []
  for (const { name, bars } of groups) {
    const middle = y + (bars.length * barHeight) / 2 + 5
    parts.push(
      `<text x="${nameWidth - 10}" y="${middle}" text-anchor="end"${squeeze(name, nameWidth - 20)}>${escapeXml(name)}</text>`,
    )
    for (const { share, label, color, light } of bars) {
      const length = Math.max(1, share * (width - nameWidth - labelWidth))
      const opacity = light === true ? ' fill-opacity="0.45"' : ''
      parts.push(
        `<rect x="${nameWidth}" y="${y + 1}" width="${length.toFixed(1)}" height="${barHeight - 2}" fill="${color}"${opacity}/>`,
        `<text x="${(nameWidth + length + 6).toFixed(1)}" y="${y + 15}">${escapeXml(label)}</text>`,
      )
      y += barHeight
    }
    y += gap
  }
  return svg(title, width, y, parts)
}

/** How one thing stands beside another: its time as a share of the other's. */
export interface Standing {
  readonly name: string
  readonly ratio: number
  readonly label: string
}

const standingNameWidth = 500

/**
 * Bars to the right for what is faster than what it stands beside, and to the left for what is slower, over a logarithmic axis of whole
 * powers of ten.
 */
export function standingsChart(title: string, standings: readonly Standing[]): string {
  const times = standings.map(({ ratio }) => Math.log10(1 / ratio))
  const [low, high] = [Math.min(-0.5, ...times), Math.max(1, Math.ceil(Math.max(...times)))]
  const plotWidth = width - standingNameWidth - labelWidth
  const x = (value: number): number => standingNameWidth + ((value - low) / (high - low)) * plotWidth
  const top = 58
  const bottom = top + standings.length * (barHeight + 4)
  const parts: string[] = []
  for (let power = 0; power <= high; power++) {
    const at = x(power).toFixed(1)
    parts.push(
      `<line x1="${at}" x2="${at}" y1="${top - 6}" y2="${bottom}" stroke="${power === 0 ? '#1b2733' : '#d5dde5'}"/>`,
      `<text x="${at}" y="${top - 12}" text-anchor="middle" fill="#5a6b7b">${power === 0 ? 'as fast' : `${10 ** power} x`}</text>`,
    )
  }
  for (const [index, { name, label }] of standings.entries()) {
    const y = top + index * (barHeight + 4)
    const [from, until] = [x(0), x(times[index] as number)]
    const end = Math.max(from, until)
    parts.push(
      `<text x="${standingNameWidth - 10}" y="${y + 15}" text-anchor="end"${squeeze(name, standingNameWidth - 20)}>${escapeXml(name)}</text>`,
      `<rect x="${Math.min(from, until).toFixed(1)}" y="${y + 1}" width="${Math.max(1, Math.abs(until - from)).toFixed(1)}" height="${barHeight - 2}" fill="${until >= from ? colors.ours : colors.peer}"/>`,
      `<text x="${(end + 6).toFixed(1)}" y="${y + 15}">${escapeXml(label)}</text>`,
    )
  }
  return svg(title, width, bottom + 12, parts)
}

/** What makes a text narrower that would be cut off: as wide as there is room. */
function squeeze(text: string, room: number, weight = 1): string {
  return text.length * characterWidth * weight <= room ? '' : ` textLength="${room}" lengthAdjust="spacingAndGlyphs"`
}

function svg(title: string, wide: number, high: number, parts: readonly string[]): string {
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${wide} ${high}" width="${wide}" height="${high}" role="img" aria-label="${escapeXml(title)}" font-family="system-ui, sans-serif" font-size="14" fill="#1b2733">
<rect width="${wide}" height="${high}" fill="#fff"/>
<text x="10" y="22" font-weight="600"${squeeze(title, wide - 20, 1.1)}>${escapeXml(title)}</text>
${parts.join('\n')}
</svg>
`
}

export function escapeXml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;')
}
