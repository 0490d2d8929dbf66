import { element } from './element.ts'

/** A frame with a title around something that is shown. */
export interface Card {
  readonly section: HTMLElement
  /** Beside the title: a unit, or buttons. */
  readonly aside: HTMLElement
  readonly body: HTMLElement
}

export function card(id: string, title: string, note: string, wide = false): Card {
  const aside = element('div', { class: 'card-aside' })
  const body = element('div', { class: 'card-body' })
  const heading = element('h2', { id: `${id}-title` }, title)
  const head = element('div', { class: 'card-head' }, heading, aside)
  const text = element('p', { class: 'card-note', id: `${id}-note` }, note)
  const section = element(
    'section',
    { class: wide ? 'card wide' : 'card', id, 'aria-labelledby': `${id}-title` },
    head,
    text,
    body,
  )
  return { section, aside, body }
}
