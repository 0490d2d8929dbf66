import type { Sample } from '../sample.ts'
import { element, found, write } from './element.ts'
import { format, time, whole } from './units.ts'

type Tone = 'good' | 'warn' | 'bad' | 'plain'

/** One figure in large type, what it is, and a line beneath. */
interface Figure {
  readonly text: string
  readonly note: string
  readonly tone: Tone
}

const figures: readonly (readonly [string, (sample: Sample) => Figure])[] = [
  [
    'Requests',
    ({ requests: { rates } }) => {
      const all = rates['2xx'] + rates['4xx'] + rates['5xx']
      const failed = all === 0 ? 0 : (rates['5xx'] / all) * 100
      const note = failed === 0 ? 'none failed' : `${format(failed, '%')} failed`
      return { text: format(all, 'per second'), note, tone: failed === 0 ? 'plain' : failed > 5 ? 'bad' : 'warn' }
    },
  ],
  [
    'Latency, p99',
    ({ requests: { latencyMs } }) => {
      const note = latencyMs === undefined ? 'nobody asked' : `half within ${format(latencyMs.p50, 'ms')}`
      return { text: format(latencyMs?.p99, 'ms'), note, tone: 'plain' }
    },
  ],
  [
    'Waiting',
    ({ buffers }) => {
      const all = Object.values(buffers)
      const waiting = all.reduce((sum, buffer) => sum + buffer.waiting, 0)
      const fullest = Math.max(0, ...all.map((buffer) => buffer.waiting / buffer.capacity)) * 100
      const tone = fullest > 80 ? 'bad' : fullest > 40 ? 'warn' : 'plain'
      return { text: whole(waiting), note: `fullest buffer ${format(fullest, '%')}`, tone }
    },
  ],
  [
    'Left alone',
    ({ breakers, instances }) => {
      const open = Object.values(breakers).filter(({ state }) => state !== 'closed').length
      const away = instances.filter(({ state }) => state !== 'healthy').length
      const all = Object.keys(breakers).length + instances.length
      const note = `of ${all} breakers and instances`
      return { text: whole(open + away), note, tone: open + away === 0 ? 'good' : 'bad' }
    },
  ],
  [
    'Lost',
    ({ losses: { lost, notLive } }) => {
      const note = notLive === 0 ? 'and none behind live' : `${whole(notLive)} behind live`
      return { text: whole(lost), note, tone: lost > 0 ? 'bad' : notLive > 0 ? 'warn' : 'good' }
    },
  ],
]

/** Only where a load is known of. */
function sums({ sums }: Sample): Figure | undefined {
  if (sums === undefined) return undefined
  const { audit, acknowledged } = sums
  if (audit === undefined) return { text: whole(acknowledged), note: 'not compared yet', tone: 'plain' }
  const upTo = audit.unsure > 0 ? ` to ${whole(audit.acknowledged + audit.unsure)}` : ''
  const note = `${whole(audit.acknowledged)}${upTo} at ${time(audit.at)}`
  return { text: audit.equal ? 'equal' : 'differ', note, tone: audit.equal ? 'good' : 'bad' }
}

/** A row of figures: what one looks at first. */
export class Figures {
  readonly #tiles = new Map<
    string,
    { readonly tile: HTMLElement; readonly text: HTMLElement; readonly note: HTMLElement }
  >()

  show(sample: Sample): void {
    for (const [name, of] of figures) this.#show(name, of(sample))
    const compared = sums(sample)
    if (compared !== undefined) this.#show('Sums', compared)
  }

  #show(name: string, { text, note, tone }: Figure): void {
    const { tile, ...nodes } = this.#tiles.get(name) ?? this.#add(name)
    write(nodes.text, text)
    write(nodes.note, note)
    tile.dataset['tone'] = tone
  }

  #add(name: string) {
    const text = element('dd', { class: 'figure' })
    const note = element('dd', { class: 'muted' })
    const tile = element('dl', { class: 'tile' }, element('dt', {}, name), text, note)
    found('figures').append(tile)
    const made = { tile, text, note }
    this.#tiles.set(name, made)
    return made
  }
}
