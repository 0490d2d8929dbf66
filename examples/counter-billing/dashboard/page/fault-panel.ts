import type { FaultAction, FaultState, Sample, ServerCondition } from '../sample.ts'
import { element, found, write } from './element.ts'
import { time, whole } from './units.ts'

const conditions: readonly ServerCondition[] = ['ok', 'slow', 'dead']
const factors = [2, 5, 10]
const burstSeconds = 10

type Server = 'redis' | 'postgres'
const names: Readonly<Record<Server, string>> = { redis: 'Redis', postgres: 'Postgres' }

/** Makes things go wrong. It is there only where the gateway offers it, and gave the page a token. */
export class FaultPanel {
  readonly #token: string
  readonly #servers: Readonly<Record<Server, { readonly title: HTMLElement; readonly buttons: HTMLButtonElement[] }>>
  readonly #instances = element('ul', { class: 'instances' })
  readonly #killing = element(
    'fieldset',
    { class: 'fault' },
    element('legend', {}, 'Counter services'),
    this.#instances,
  )
  readonly #load = element('p', { class: 'muted' })
  readonly #sums = element('p', { class: 'sums muted' })
  readonly #loadButton = this.#button('Stop the load', () => ({ do: this.#running ? 'load-stop' : 'load-start' }))
  readonly #bursts: readonly HTMLButtonElement[]
  readonly #compare = this.#button('Compare sums', () => ({ do: 'compare' }))
  readonly #answer = element('p', { class: 'answer', role: 'status' })
  #running = true

  constructor(token: string) {
    this.#token = token
    this.#servers = { redis: this.#conditions('redis'), postgres: this.#conditions('postgres') }
    this.#bursts = factors.map((factor) => {
      return this.#button(
        `×${factor}`,
        () => ({ do: 'burst', factor, seconds: burstSeconds }),
        `${factor} times the load for ${burstSeconds} s`,
      )
    })
    const panel = found('faults')
    panel.append(
      element('h2', { id: 'faults-title' }, 'Faults'),
      element('p', { class: 'muted' }, 'Break something, and see what the rest does. Charts are shaded meanwhile.'),
      this.#group('redis'),
      this.#group('postgres'),
      this.#killing,
      element(
        'fieldset',
        { class: 'fault' },
        element('legend', {}, 'Load'),
        this.#load,
        element(
          'div',
          { class: 'row' },
          element('span', { class: 'label' }, `Burst, ${burstSeconds} s`),
          element('div', { class: 'segments' }, ...this.#bursts),
        ),
        element('div', { class: 'row' }, this.#loadButton),
      ),
      element(
        'fieldset',
        { class: 'fault' },
        element('legend', {}, 'Sums'),
        this.#sums,
        element('div', { class: 'row' }, this.#compare),
      ),
      element(
        'div',
        { class: 'row' },
        this.#button('Clear all faults', () => ({ do: 'clear' }), undefined, 'primary'),
      ),
      this.#answer,
    )
    panel.hidden = false
    document.body.classList.add('with-faults')
  }

  show({ faults, sums }: Sample): void {
    if (faults === undefined) return
    for (const server of ['redis', 'postgres'] as const) {
      const { title, buttons } = this.#servers[server]
      write(title, faults.titles[server])
      for (const [index, button] of buttons.entries()) {
        button.setAttribute('aria-pressed', String(conditions[index] === faults[server]))
      }
    }
    this.#showInstances(faults)
    this.#showLoad(faults)
    if (sums === undefined) return
    const { acknowledged, unsure, durable, live } = sums
    const said = (store: number | undefined): string => (store === undefined ? 'unknown' : whole(store))
    write(
      this.#sums,
      `acknowledged ${whole(acknowledged)}${unsure > 0 ? ` and ${whole(unsure)} unsure` : ''}, durable ${said(durable)}, live ${said(live)}`,
    )
  }

  #showInstances({ instances }: FaultState): void {
    this.#killing.hidden = instances.length === 0
    for (const { id, alive, changing } of instances) {
      const row = this.#instances.querySelector<HTMLElement>(`[data-id="${CSS.escape(id)}"]`) ?? this.#addInstance(id)
      const [name, button] = [row.querySelector('span'), row.querySelector('button')]
      if (name === null || button === null) continue
      row.dataset['alive'] = String(alive)
      write(name, `${alive ? '●' : '■'} ${id}`)
      write(button, changing ? 'wait' : alive ? 'Kill' : 'Start')
      button.setAttribute('aria-label', `${alive ? 'Kill' : 'Start'} the counter service ${id}`)
      // Not disabled: who works by keyboard would lose his place.
      button.setAttribute('aria-disabled', String(changing))
    }
  }

  #addInstance(id: string): HTMLElement {
    const button = element('button', { type: 'button' })
    const row = element('li', { 'data-id': id }, element('span', {}), button)
    button.addEventListener('click', () => {
      if (button.getAttribute('aria-disabled') === 'true') return
      void this.#send({ do: row.dataset['alive'] === 'true' ? 'kill' : 'start', instance: id })
    })
    this.#instances.append(row)
    return row
  }

  #showLoad({ load }: FaultState): void {
    const { state, requestsPerSecond, burst, endsAt, skipped } = load
    this.#running = state !== 'stopped'
    const rest = skipped > 0 ? `; ${whole(skipped)} were not sent, as too many had no answer` : ''
    const texts = {
      running: `${whole(requestsPerSecond)} requests/s until ${time(endsAt)}${burst ? `, ×${burst.factor} for now` : ''}${rest}`,
      comparing: 'stands still while sums are compared',
      stopped: 'stopped',
    }
    write(this.#load, texts[state])
    write(this.#loadButton, this.#running ? 'Stop the load' : 'Start the load')
    for (const button of this.#bursts) button.setAttribute('aria-disabled', String(!this.#running))
  }

  #conditions(server: Server) {
    const buttons = conditions.map((condition) => {
      return this.#button(condition, () => ({ do: server, condition }), `${names[server]}: ${condition}`)
    })
    return { title: element('span', { class: 'muted' }), buttons }
  }

  #group(server: Server): HTMLElement {
    const { title, buttons } = this.#servers[server]
    const segments = element('div', { class: 'segments fill' }, ...buttons)
    return element('fieldset', { class: 'fault' }, element('legend', {}, names[server], ' ', title), segments)
  }

  #button(text: string, action: () => FaultAction, label?: string, look?: string): HTMLButtonElement {
    const button = element('button', { type: 'button', 'aria-label': label, class: look }, text)
    button.addEventListener('click', () => {
      if (button.getAttribute('aria-disabled') !== 'true') void this.#send(action())
    })
    return button
  }

  async #send(action: FaultAction): Promise<void> {
    try {
      const answer = await fetch('/dashboard/faults', {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'x-dashboard-token': this.#token },
        body: JSON.stringify(action),
      })
      const { message } = (await answer.json()) as { message?: string }
      write(this.#answer, answer.ok ? '' : (message ?? `the gateway said ${answer.status}`))
    } catch {
      write(this.#answer, 'the gateway does not answer')
    }
  }
}
