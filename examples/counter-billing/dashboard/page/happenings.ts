import type { FaultState, Sample } from '../sample.ts'
import { card } from './card.ts'
import { element } from './element.ts'
import { statesOf } from './states-card.ts'
import { time, whole } from './units.ts'

const kept = 30

/** What changed, in words, the latest first: read out by screen readers as it comes. */
export class Happenings {
  readonly section: HTMLElement
  readonly #list = element('ol')
  #before: Sample | undefined

  constructor() {
    const { section, body } = card('happenings', 'What happened', 'Changes of state, and faults, the latest first.')
    this.section = section
    this.#list.append(element('li', { class: 'empty' }, 'nothing yet'))
    body.append(
      element('div', { role: 'log', 'aria-live': 'polite', 'aria-label': 'What happened', tabindex: 0 }, this.#list),
    )
  }

  /** What is different from the sample before. */
  show(sample: Sample): void {
    const before = this.#before
    this.#before = sample
    if (before === undefined || sample.at <= before.at) return
    for (const text of changes(before, sample)) this.tell(text, sample.at)
  }

  tell(text: string, at: number = Date.now()): void {
    this.#list.querySelector('.empty')?.remove()
    this.#list.prepend(element('li', {}, element('time', {}, time(at)), element('span', {}, text)))
    while (this.#list.childElementCount > kept) this.#list.lastElementChild?.remove()
  }
}

function changes(before: Sample, now: Sample): string[] {
  const texts: string[] = []
  const states = statesOf(before)
  for (const [name, state] of statesOf(now)) {
    const was = states.get(name)
    if (was !== undefined && was !== state) texts.push(`${name}: ${state}, was ${was}`)
  }
  if (before.faults !== undefined && now.faults !== undefined) texts.push(...faultChanges(before.faults, now.faults))
  const { audit } = now.sums ?? {}
  if (audit !== undefined && audit.at !== before.sums?.audit?.at) {
    const { acknowledged, unsure, live, durable } = audit
    const sent = `${whole(acknowledged)}${unsure > 0 ? ` and ${whole(unsure)} unsure` : ''}`
    const stored = `durable ${durable === undefined ? 'unknown' : whole(durable)}, live ${live === undefined ? 'unknown' : whole(live)}`
    texts.push(`sums ${audit.equal ? 'are equal' : 'differ'}: acknowledged ${sent}, ${stored}`)
  }
  if (now.losses.lost > before.losses.lost) {
    texts.push(`increments of ${whole(now.losses.lost - before.losses.lost)} counters were lost`)
  }
  return texts
}

function faultChanges(before: FaultState, now: FaultState): string[] {
  const texts: string[] = []
  if (before.redis !== now.redis) texts.push(`Redis is ${now.redis}`)
  if (before.postgres !== now.postgres) texts.push(`Postgres is ${now.postgres}`)
  for (const { id, alive } of now.instances) {
    const was = before.instances.find((one) => one.id === id)
    if (was !== undefined && was.alive !== alive) texts.push(`instance ${id} was ${alive ? 'started' : 'killed'}`)
  }
  if (before.load.state !== now.load.state) texts.push(`the load is ${now.load.state}`)
  if (before.load.burst === undefined && now.load.burst !== undefined) {
    texts.push(`a burst: ${now.load.burst.factor} times the load`)
  }
  return texts
}
