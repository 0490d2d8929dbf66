import type { Running } from '../processes.ts'
import type { Section, SectionTarget } from './section.ts'

/** The ways to log, and what they are called. */
export const loggers = {
  sync: 'naive, appendFileSync',
  awaited: 'naive, an awaited appendFile',
  winston: 'winston, File',
  pino: 'pino, its default destination',
  'pino-async': 'pino, sync: false',
  spillway: 'spillway, pino on AsyncLogBuffer',
  nothing: 'no log at all',
} as const

export type LoggerName = keyof typeof loggers

interface LogReport {
  readonly requests: number
  readonly lines: number
  readonly broken: number
  readonly dropped: number
}

/** A line of log a request. */
export function logSection(services: Readonly<Record<LoggerName, Running>>): Section {
  const target = (name: LoggerName): SectionTarget => {
    const { url } = services[name]
    return {
      name: loggers[name],
      url,
      get: '/call',
      settle: async () => {
        const { requests, lines, broken, dropped } = (await (await fetch(`${url}/report`)).json()) as LogReport
        const counts = { dropped }
        if (name === 'nothing') return { counts }
        const whole = broken === 0 && lines + dropped === requests
        return whole
          ? { counts }
          : { counts, wrong: `${requests} requests, ${lines} lines, ${dropped} dropped, ${broken} broken` }
      },
    }
  }
  return {
    title: 'Logs',
    about: [
      'A service answers, and logs a line of some 130 bytes of each request into a file.',
      'After each run the file must have a whole line of each request, once, but for those that were dropped and counted.',
    ],
    keys: 1,
    prefix: '',
    targets: (Object.keys(loggers) as LoggerName[]).map(target),
    note: ({ dropped = 0 }) => (dropped === 0 ? '' : `${Math.round(dropped).toLocaleString('en-US')} lines dropped`),
  }
}
