import type { Hello, Sample } from '../sample.ts'
import { Chart, secondsShown } from './chart.ts'
import { charts } from './charts.ts'
import { found, write } from './element.ts'
import { FaultPanel } from './fault-panel.ts'
import { Figures } from './figures.ts'
import { Happenings } from './happenings.ts'
import { InstancesChart } from './instances-chart.ts'
import { StatesCard } from './states-card.ts'
import { Colours } from './theme.ts'

const colours = new Colours()
const token = document.querySelector<HTMLMetaElement>('meta[name="faults-token"]')?.content
const panel = token ? new FaultPanel(token) : undefined
const figures = new Figures()
const happenings = new Happenings()
const states = new StatesCard(colours)
const instances = new InstancesChart(colours)
const made = charts.filter(({ id }) => id !== 'sums' || panel !== undefined).map((chart) => new Chart(chart, colours))

/** Tall ones stand beside each other. */
const early = new Set(['requests', 'latency', 'sums'])
const sections = (isEarly: boolean): HTMLElement[] =>
  made.map(({ section }) => section).filter(({ id }) => early.has(id) === isEarly)
found('grid').append(...sections(true), states.section, happenings.section, instances.chart.section, ...sections(false))

let samples: Sample[] = []
let paused = false

const pause = found('pause')
pause.addEventListener('click', () => {
  paused = !paused
  pause.setAttribute('aria-pressed', String(paused))
  write(pause, paused ? 'Resume' : 'Pause')
  if (!paused) show()
})

function take(more: readonly Sample[]): void {
  const latest = samples.at(-1)?.at ?? 0
  samples = [...samples, ...more.filter(({ at }) => at > latest)]
  const oldest = (samples.at(-1)?.at ?? 0) - secondsShown * 1_000
  samples = samples.filter(({ at }) => at >= oldest)
}

function show(): void {
  const latest = samples.at(-1)
  if (latest === undefined) return
  figures.show(latest)
  for (const view of [...made, states, instances]) view.show(samples, latest.at)
}

const againMs = 2_000
const connection = found('connection')

function connected(state: 'live' | 'lost'): void {
  if (connection.dataset['state'] === state) return
  if (connection.dataset['state'] !== 'connecting')
    happenings.tell(state === 'live' ? 'the gateway is back' : 'the gateway is gone')
  connection.dataset['state'] = state
  write(connection, state === 'live' ? 'live' : 'reconnecting')
}

/** It comes back by itself, for as long as the page is open. */
function connect(): void {
  const stream = new EventSource('/dashboard/events')
  stream.addEventListener('error', () => {
    connected('lost')
    // A browser tries again where the connection was lost, and not where the answer was no, as it is while a gateway closes.
    if (stream.readyState === EventSource.CLOSED) setTimeout(connect, againMs)
  })
  stream.addEventListener('hello', ({ data }: MessageEvent<string>) => {
    connected('live')
    const { history } = JSON.parse(data) as Hello
    take(history)
    const latest = history.at(-1)
    if (latest !== undefined) {
      // What happens until the next sample is a change, too.
      happenings.show(latest)
      panel?.show(latest)
    }
    if (!paused) show()
  })
  stream.addEventListener('sample', ({ data }: MessageEvent<string>) => {
    const sample = JSON.parse(data) as Sample
    take([sample])
    happenings.show(sample)
    panel?.show(sample)
    if (!paused) show()
  })
}

connect()
