import type { AnswerClass, BufferSample, InstanceSample, Sample } from '../sample.ts'
import type { ChartOptions, Line } from './chart.ts'
import { format, tick, whole } from './units.ts'

const answers: Readonly<Record<AnswerClass, string>> = { '2xx': '2xx done', '4xx': '4xx refused', '5xx': '5xx failed' }

function rate(answer: AnswerClass): Line {
  return { label: answers[answer], unit: 'per second', read: ({ requests }) => requests.rates[answer] }
}

function latency(name: 'p50' | 'p95' | 'p99'): Line {
  return { label: name, unit: 'ms', read: ({ requests }) => requests.latencyMs?.[name] }
}

function size(buffer: string): Line {
  return { label: buffer, unit: 'items', read: ({ buffers }) => buffers[buffer]?.batchSize }
}

function depth(buffer: string): Line {
  const share = ({ waiting, capacity }: BufferSample): number => (waiting / capacity) * 100
  const said = (buffer: BufferSample): string =>
    `${whole(buffer.waiting)} of ${tick(buffer.capacity)} · ${format(share(buffer), '%')}`
  return {
    label: buffer,
    unit: '%',
    read: ({ buffers }) => buffers[buffer] && share(buffers[buffer]),
    detail: ({ buffers }) => buffers[buffer] && said(buffers[buffer]),
  }
}

function tier(label: string, name: 'l1' | 'l2' | 'loaded'): Line {
  const read = ({ cache }: Sample): number | undefined => {
    const all = cache.l1 + cache.l2 + cache.loaded
    return all === 0 ? undefined : (cache[name] / all) * 100
  }
  return { label, unit: '%', read }
}

/** What was acknowledged, less what a store has of it. */
function behind(label: string, store: 'durable' | 'live'): Line {
  const read = ({ sums }: Sample): number | undefined => {
    const stored = sums?.[store]
    return sums === undefined || stored === undefined ? undefined : Math.max(0, sums.acknowledged - stored)
  }
  return { label, unit: 'count', read }
}

/** In the order of the page. */
export const charts: readonly ChartOptions[] = [
  {
    id: 'requests',
    title: 'Requests',
    note: 'Answers a second, by class.',
    axis: 'requests/s',
    atLeast: 10,
    lines: [rate('2xx'), rate('4xx'), rate('5xx')],
  },
  {
    id: 'latency',
    title: 'Latency',
    note: 'Of all answers within each second.',
    axis: 'ms',
    atLeast: 5,
    lines: [latency('p50'), latency('p95'), latency('p99')],
  },
  {
    id: 'sums',
    title: 'Not yet stored',
    note: 'Acknowledged, less what each store has.',
    axis: 'increments',
    atLeast: 50,
    lines: [behind('durable store', 'durable'), behind('live store', 'live')],
  },
  {
    id: 'write-batches',
    title: 'Batch size: writes',
    note: 'What leaves in one call.',
    axis: 'items',
    atLeast: 10,
    lines: ['durable writes', 'live writes', 'usage'].map(size),
  },
  {
    id: 'answer-batches',
    title: 'Batch size: answers, reads',
    note: 'What is waited for leaves with the next call.',
    axis: 'items',
    atLeast: 4,
    lines: ['durable answers', 'live answers', 'durable reads', 'live reads'].map(size),
  },
  {
    id: 'depth',
    title: 'Queue depth',
    note: 'What waits, against how much may.',
    axis: '% of capacity',
    atLeast: 1,
    lines: ['durable writes', 'live writes', 'usage', 'log'].map(depth),
  },
  {
    id: 'cache',
    title: 'Cache',
    note: 'Reads by the tier that answered them.',
    axis: '% of reads',
    atLeast: 100,
    atMost: 100,
    lines: [tier('L1, in memory', 'l1'), tier('L2, shared', 'l2'), tier('loaded', 'loaded')],
  },
  {
    id: 'quota',
    title: 'Quota accounting',
    note: 'Uses not applied yet, and their age.',
    axis: 'uses',
    rightAxis: 's',
    atLeast: 20,
    lines: [
      { label: 'offered − applied', unit: 'count', read: ({ quota }) => quota && quota.offered - quota.applied },
      { label: 'age', unit: 's', right: true, read: ({ quota }) => quota && quota.ageMs / 1_000 },
    ],
  },
  {
    id: 'log',
    title: 'Log',
    note: 'Lines that no request waits for.',
    axis: 'lines/s',
    atLeast: 10,
    lines: [
      { label: 'lines', unit: 'per second', read: ({ log }) => log?.linesPerSecond },
      { label: 'drops', unit: 'per second', read: ({ log }) => log?.dropsPerSecond },
    ],
  },
  {
    id: 'loop',
    title: 'Event loop',
    note: 'How late its timers are.',
    axis: 'ms late',
    rightAxis: '% busy',
    atLeast: 5,
    lines: [
      { label: 'mean', unit: 'ms', read: ({ loop }) => loop.meanMs },
      { label: 'latest', unit: 'ms', read: ({ loop }) => loop.maxMs },
      { label: 'busy', unit: '%', right: true, read: ({ loop }) => loop.busy * 100 },
    ],
  },
]

/** What can be seen of each instance. */
export const instanceMeasures = {
  calls: { title: 'Calls', axis: 'calls/s', unit: 'per second', read: (one: InstanceSample) => one.picksPerSecond },
  open: { title: 'Outstanding', axis: 'calls', unit: 'count', read: (one: InstanceSample) => one.outstanding },
  latency: { title: 'Latency', axis: 'ms', unit: 'ms', read: (one: InstanceSample) => one.latencyMs },
} as const
