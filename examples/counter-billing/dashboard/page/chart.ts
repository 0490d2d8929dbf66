import uPlot from 'uplot'
import type { Sample } from '../sample.ts'
import { card } from './card.ts'
import { element, write } from './element.ts'
import type { Colours } from './theme.ts'
import { format, tick, time, type Unit } from './units.ts'

/** One line of a chart. */
export interface Line {
  readonly label: string
  readonly unit: Unit
  readonly read: (sample: Sample) => number | undefined
  /** Where it has more to say than its value. */
  readonly detail?: (sample: Sample) => string | undefined
  /** Against the axis on the right, of its own. */
  readonly right?: boolean
}

export interface ChartOptions {
  readonly id: string
  readonly title: string
  readonly note: string
  /** Of the axis, said beside the title. */
  readonly axis: string
  readonly rightAxis?: string
  readonly wide?: boolean
  /** The least that the axis reaches up to. */
  readonly atLeast: number
  /** The most that it does, where there is one. */
  readonly atMost?: number
  readonly lines: readonly Line[]
}

export const secondsShown = 120
const height = 160
const axisWidth = 38
/** Beside its colour, each line has its dash. */
const dashes: readonly number[][] = [[], [7, 4], [2, 3], [9, 3, 2, 3], [4, 2], [12, 4]]

/** A chart over time, with the current values in its legend; pointer or arrow keys tell those of any moment. */
export class Chart {
  readonly section: HTMLElement
  readonly aside: HTMLElement
  readonly #options: ChartOptions
  readonly #colours: Colours
  readonly #plot: HTMLElement
  readonly #legend = element('ul', { class: 'legend' })
  readonly #tip = element('div', { class: 'tip', 'aria-hidden': 'true', hidden: true })
  readonly #empty = element('p', { class: 'empty' }, 'nothing yet')
  #lines: readonly Line[] = []
  #values: HTMLElement[] = []
  #hidden = new Set<string>()
  #samples: readonly Sample[] = []
  #chart: uPlot | undefined
  #now = 0

  constructor(options: ChartOptions, colours: Colours) {
    this.#options = options
    this.#colours = colours
    const { section, aside, body } = card(options.id, options.title, options.note, options.wide)
    const { axis, rightAxis } = options
    aside.append(element('span', { class: 'unit' }, rightAxis === undefined ? axis : `${axis} | ${rightAxis}`))
    this.section = section
    this.aside = aside
    this.#plot = element('div', {
      class: 'plot',
      role: 'slider',
      tabindex: 0,
      'aria-label': `${options.title}: values over time`,
      'aria-describedby': `${options.id}-note`,
      'aria-valuemin': 0,
      'aria-valuemax': 0,
      'aria-valuenow': 0,
      'aria-valuetext': 'nothing yet',
    })
    this.#plot.append(this.#empty, this.#tip)
    body.append(this.#plot, this.#legend)
    this.#plot.addEventListener('keydown', (event) => this.#onKey(event))
    this.#plot.addEventListener('blur', () => this.#leave())
    new ResizeObserver(() => this.#resize()).observe(this.#plot)
    colours.onChange(() => this.#redraw())
    this.setLines(options.lines)
  }

  /** Shows other lines from now on. */
  setLines(lines: readonly Line[]): void {
    this.#lines = lines
    this.#values = lines.map(() => element('span', { class: 'value' }, '–'))
    this.#legend.replaceChildren(...lines.map((line, index) => this.#entry(line, index)))
    this.#chart?.destroy()
    this.#chart = undefined
    if (this.#samples.length > 0) this.show(this.#samples, this.#now)
  }

  show(samples: readonly Sample[], now: number): void {
    this.#samples = samples
    this.#now = now
    const latest = samples.at(-1)
    for (const [index, { read, detail, unit }] of this.#lines.entries()) {
      const node = this.#values[index]
      if (node !== undefined) write(node, latest ? (detail?.(latest) ?? format(read(latest), unit)) : '–')
    }
    this.#empty.hidden = samples.length > 0 && this.#lines.length > 0
    if (this.#plot.clientWidth === 0) return
    const chart = this.#chart ?? this.#make()
    chart.setData(this.#data())
    this.#tell(chart.cursor.idx ?? undefined)
  }

  #entry({ label }: Line, index: number): HTMLElement {
    const swatch = document.createElementNS('http://www.w3.org/2000/svg', 'svg')
    swatch.setAttribute('class', `swatch dash-${index % dashes.length} colour-${index % dashes.length}`)
    swatch.setAttribute('viewBox', '0 0 22 8')
    swatch.setAttribute('aria-hidden', 'true')
    const line = document.createElementNS('http://www.w3.org/2000/svg', 'path')
    line.setAttribute('d', 'M1 4h20')
    swatch.append(line)
    const button = element('button', { type: 'button', 'aria-pressed': 'true', title: `Show or hide ${label}` }, swatch)
    button.append(element('span', {}, label), this.#values[index] as HTMLElement)
    button.addEventListener('click', () => {
      const shown = this.#hidden.has(label)
      if (shown) this.#hidden.delete(label)
      else this.#hidden.add(label)
      button.setAttribute('aria-pressed', String(shown))
      this.#chart?.setSeries(index + 1, { show: shown })
    })
    if (this.#hidden.has(label)) button.setAttribute('aria-pressed', 'false')
    return element('li', {}, button)
  }

  #data(): uPlot.AlignedData {
    const times = this.#samples.map(({ at }) => at / 1_000)
    return [times, ...this.#lines.map(({ read }) => this.#samples.map((sample) => read(sample) ?? null))]
  }

  #make(): uPlot {
    const { rightAxis, atLeast, atMost } = this.#options
    const font = '11px system-ui, sans-serif'
    const common: uPlot.Axis = {
      stroke: () => this.#colours.of('muted'),
      font,
      gap: 4,
      ticks: { show: false },
      grid: { stroke: () => this.#colours.of('line'), width: 1 },
    }
    const values = (_: uPlot, splits: number[]): string[] => splits.map(tick)
    const upTo = (_: uPlot, _min: number, max: number): [number, number] => {
      return [0, Math.min(atMost ?? Number.POSITIVE_INFINITY, Math.max(atLeast, (max ?? 0) * 1.1))]
    }
    const axes: uPlot.Axis[] = [
      {
        ...common,
        size: 24,
        space: 60,
        values: (_, splits) => splits.map((at) => ago(at - this.#now / 1_000)),
        splits: () => this.#splits(),
      },
      { ...common, size: axisWidth, space: 28, values },
    ]
    if (rightAxis !== undefined) {
      axes.push({
        ...common,
        scale: 'right',
        side: 1,
        size: axisWidth,
        space: 28,
        values,
        grid: { show: false },
      })
    }
    const chart = new uPlot(
      {
        width: this.#plot.clientWidth,
        height,
        padding: [8, rightAxis === undefined ? 14 : 0, 0, 0],
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
        scales: {
          x: { time: false, range: () => [this.#now / 1_000 - secondsShown, this.#now / 1_000] },
          y: { range: upTo },
          ...(rightAxis !== undefined && {
            right: {
              range: (_: uPlot, _min: number, max: number): [number, number] => [0, Math.max(1, (max ?? 0) * 1.1)],
            },
          }),
        },
        axes,
        series: [{}, ...this.#lines.map((line, index) => this.#series(line, index))],
        hooks: {
          drawClear: [(chart) => this.#shade(chart)],
          setCursor: [({ cursor }) => this.#tell(cursor.idx ?? undefined)],
        },
      },
      this.#data(),
      this.#plot,
    )
    this.#chart = chart
    return chart
  }

  #series({ label, right }: Line, index: number): uPlot.Series {
    return {
      label,
      show: !this.#hidden.has(label),
      scale: right ? 'right' : 'y',
      stroke: () => this.#colours.series(index),
      width: 2,
      dash: dashes[index % dashes.length] as number[],
      points: { show: (_, _series, from, to) => to - from < 2, size: 5 },
      spanGaps: false,
    }
  }

  /** Shades the seconds in which a fault was on. */
  #shade(chart: uPlot): void {
    const { ctx, bbox } = chart
    ctx.fillStyle = this.#colours.of('shade')
    for (const [index, sample] of this.#samples.entries()) {
      if (!isFaulty(sample)) continue
      const until = this.#samples[index + 1]?.at ?? sample.at
      const left = Math.round(Math.max(bbox.left, chart.valToPos(sample.at / 1_000, 'x', true)))
      const right = Math.round(Math.max(left, chart.valToPos(until / 1_000, 'x', true)))
      ctx.fillRect(left, bbox.top, right - left, bbox.height)
    }
  }

  /** Moments that stay whole distances from now. */
  #splits(): number[] {
    const now = this.#now / 1_000
    return [120, 90, 60, 30, 0].map((before) => now - before)
  }

  /** What was at a moment; at the last one, where none is pointed at. */
  #tell(index: number | undefined): void {
    const { cursor } = this.#chart ?? {}
    const sample = this.#samples[index ?? this.#samples.length - 1]
    this.#tip.hidden = index === undefined || sample === undefined || (cursor?.left ?? -1) < 0
    if (sample === undefined) return
    const said = this.#lines
      .filter(({ label }) => !this.#hidden.has(label))
      .map(({ label, unit, read, detail }) => [label, detail?.(sample) ?? format(read(sample), unit)] as const)
    const text = `${time(sample.at)}: ${said.map((pair) => pair.join(' ')).join(', ')}`
    this.#plot.setAttribute('aria-valuemax', String(this.#samples.length - 1))
    this.#plot.setAttribute('aria-valuenow', String(index ?? this.#samples.length - 1))
    this.#plot.setAttribute('aria-valuetext', text)
    if (this.#tip.hidden) return
    const rows = said.map(([label, value]) => element('li', {}, element('span', {}, label), element('b', {}, value)))
    this.#tip.replaceChildren(element('p', {}, time(sample.at)), element('ul', {}, ...rows))
    const left = (cursor?.left ?? 0) + axisWidth
    const right = left > this.#plot.clientWidth / 2
    this.#tip.style.left = right ? 'auto' : `${left + 12}px`
    this.#tip.style.right = right ? `${this.#plot.clientWidth - left + 12}px` : 'auto'
  }

  #onKey(event: KeyboardEvent): void {
    const last = this.#samples.length - 1
    const at = this.#chart?.cursor.idx ?? last
    const places: Record<string, number> = {
      ArrowLeft: at - 1,
      ArrowRight: at + 1,
      PageUp: at - 10,
      PageDown: at + 10,
      Home: 0,
      End: last,
    }
    const place = places[event.key]
    if (event.key === 'Escape') return this.#leave()
    if (place === undefined || this.#chart === undefined) return
    event.preventDefault()
    const sample = this.#samples[Math.min(last, Math.max(0, place))]
    if (sample === undefined) return
    // Not beyond the edge, where uPlot takes a cursor for gone.
    const left = Math.min(this.#chart.valToPos(sample.at / 1_000, 'x'), this.#chart.over.clientWidth - 1)
    this.#chart.setCursor({ left: Math.max(0, left), top: 0 })
  }

  #leave(): void {
    this.#chart?.setCursor({ left: -10, top: -10 })
    this.#tip.hidden = true
  }

  #resize(): void {
    if (this.#chart === undefined) return this.#samples.length > 0 ? this.show(this.#samples, this.#now) : undefined
    this.#chart.setSize({ width: this.#plot.clientWidth, height })
  }

  #redraw(): void {
    this.#chart?.redraw(false, true)
  }
}

function isFaulty({ faults }: Sample): boolean {
  if (faults === undefined) return false
  const { redis, postgres, instances, load } = faults
  return redis !== 'ok' || postgres !== 'ok' || load.burst !== undefined || instances.some(({ alive }) => !alive)
}

function ago(seconds: number): string {
  const whole = Math.round(seconds)
  return whole === 0 ? 'now' : `${whole} s`
}
