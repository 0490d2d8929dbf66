import type { Sample } from '../sample.ts'
import { card } from './card.ts'
import { secondsShown } from './chart.ts'
import { element, write } from './element.ts'
import type { Colours } from './theme.ts'

/** How a state looks: by colour, by how much of the row it fills, and in words. */
interface Look {
  readonly colour: 'good' | 'warn' | 'bad' | 'faint'
  readonly share: number
  readonly sign: string
}

const looks: Readonly<Record<string, Look>> = {
  closed: { colour: 'good', share: 0.22, sign: '●' },
  healthy: { colour: 'good', share: 0.22, sign: '●' },
  'half-open': { colour: 'warn', share: 0.6, sign: '◐' },
  draining: { colour: 'warn', share: 0.6, sign: '◐' },
  open: { colour: 'bad', share: 1, sign: '■' },
  isolated: { colour: 'bad', share: 1, sign: '■' },
  unhealthy: { colour: 'bad', share: 1, sign: '■' },
  ejected: { colour: 'bad', share: 1, sign: '■' },
}
const unknown: Look = { colour: 'faint', share: 0.1, sign: '·' }
const rowHeight = 22

/** The states of a moment, by what has them. */
export function statesOf({ breakers, instances }: Sample): Map<string, string> {
  const states = new Map(Object.entries(breakers).map(([name, { state }]) => [name, state as string]))
  for (const { service, id, state } of instances) states.set(`${service} ${id}`, state)
  return states
}

/** A row for each breaker and each instance, with its states over time. */
export class StatesCard {
  readonly section: HTMLElement
  readonly #rows = new Map<
    string,
    { readonly canvas: HTMLCanvasElement; readonly now: HTMLElement; readonly row: HTMLElement }
  >()
  readonly #list = element('ul', { class: 'states' })
  readonly #colours: Colours
  #samples: readonly Sample[] = []
  #now = 0

  constructor(colours: Colours) {
    this.#colours = colours
    const { section, body } = card(
      'states',
      'Breakers and instances',
      'Low: well. Half: being tried. Full: left alone, as an open breaker or an ejected instance.',
      true,
    )
    this.section = section
    body.append(this.#list)
    new ResizeObserver(() => this.#draw()).observe(this.#list)
    colours.onChange(() => this.#draw())
  }

  show(samples: readonly Sample[], now: number): void {
    this.#samples = samples
    this.#now = now
    const latest = samples.at(-1)
    const current = latest === undefined ? new Map<string, string>() : statesOf(latest)
    for (const [name, { row }] of this.#rows) {
      if (current.has(name)) continue
      row.remove()
      this.#rows.delete(name)
    }
    for (const [name, state] of current) {
      const { now: badge } = this.#rows.get(name) ?? this.#add(name)
      const { sign, colour } = looks[state] ?? unknown
      write(badge, `${sign} ${state}`)
      badge.dataset['tone'] = colour
    }
    this.#draw()
  }

  #add(name: string) {
    const canvas = element('canvas', { 'aria-hidden': 'true' })
    const now = element('span', { class: 'badge' })
    const row = element('li', {}, element('span', { class: 'name', title: name }, name), canvas, now)
    const made = { canvas, now, row }
    this.#rows.set(name, made)
    this.#list.append(row)
    return made
  }

  #draw(): void {
    for (const [name, { canvas }] of this.#rows) this.#drawRow(name, canvas)
  }

  #drawRow(name: string, canvas: HTMLCanvasElement): void {
    const { clientWidth: width } = canvas
    const context = canvas.getContext('2d')
    if (width === 0 || context === null) return
    const ratio = devicePixelRatio
    canvas.width = Math.round(width * ratio)
    canvas.height = Math.round(rowHeight * ratio)
    context.scale(ratio, ratio)
    context.fillStyle = this.#colours.of('line')
    context.fillRect(0, rowHeight - 1, width, 1)
    const second = width / secondsShown
    for (const [index, sample] of this.#samples.entries()) {
      const state = statesOf(sample).get(name)
      if (state === undefined) continue
      const { colour, share } = looks[state] ?? unknown
      // Until the next sample, but no longer than one should take.
      const until = Math.min(this.#samples[index + 1]?.at ?? this.#now, sample.at + 2_500)
      const left = width - ((this.#now - sample.at) / 1_000) * second
      const tall = Math.max(3, share * (rowHeight - 2))
      context.fillStyle = this.#colours.of(colour === 'warn' ? 'half' : colour)
      context.fillRect(left, rowHeight - 1 - tall, Math.max(1, ((until - sample.at) / 1_000) * second + 0.5), tall)
    }
  }
}
