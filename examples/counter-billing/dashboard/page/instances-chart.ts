import type { InstanceSample, Sample } from '../sample.ts'
import { Chart, type Line } from './chart.ts'
import { instanceMeasures } from './charts.ts'
import { element } from './element.ts'
import type { Colours } from './theme.ts'

type Measure = keyof typeof instanceMeasures

const measures = Object.keys(instanceMeasures) as Measure[]

/** What each instance behind the gateway does: one measure at a time, a line for each of them. */
export class InstancesChart {
  readonly chart: Chart
  readonly #buttons: readonly HTMLButtonElement[]
  #measure: Measure = 'calls'
  #ids: readonly string[] = []

  constructor(colours: Colours) {
    this.chart = new Chart(
      {
        id: 'instances',
        title: 'Load by instance',
        note: 'What the balancer gives to each, and gets from it.',
        axis: '',
        wide: true,
        atLeast: 4,
        lines: [],
      },
      colours,
    )
    this.#buttons = measures.map((measure) => {
      const button = element(
        'button',
        { type: 'button', 'aria-pressed': String(measure === this.#measure) },
        instanceMeasures[measure].title,
      )
      button.addEventListener('click', () => this.#choose(measure))
      return button
    })
    this.chart.aside.replaceChildren(
      element('div', { class: 'segments', role: 'group', 'aria-label': 'Measure' }, ...this.#buttons),
    )
  }

  show(samples: readonly Sample[], now: number): void {
    const ids = samples.at(-1)?.instances.map(({ service, id }) => `${service} ${id}`) ?? []
    if (ids.join() !== this.#ids.join()) {
      this.#ids = ids
      this.chart.setLines(this.#lines(ids))
    }
    this.chart.show(samples, now)
  }

  #choose(measure: Measure): void {
    this.#measure = measure
    for (const [index, button] of this.#buttons.entries()) {
      button.setAttribute('aria-pressed', String(measures[index] === measure))
    }
    this.chart.setLines(this.#lines(this.#ids))
  }

  #lines(ids: readonly string[]): Line[] {
    const { unit, read } = instanceMeasures[this.#measure]
    return ids.map((name) => {
      const of = ({ instances }: Sample): InstanceSample | undefined =>
        instances.find(({ service, id }) => `${service} ${id}` === name)
      return {
        label: name,
        unit,
        read: (sample) => {
          const one = of(sample)
          return one && read(one)
        },
      }
    })
  }
}
