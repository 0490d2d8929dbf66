import type { Running } from '../processes.ts'
import type { Section, SectionTarget } from './section.ts'

/** How long the auth service takes, in the midst of what real ones are told to take. */
export const tokenDelayMs = 300
/** Short, so that each run sees some end. */
export const tokenLifeMs = 3_000

interface TokenReport {
  readonly fetched: number
  readonly refused: number
  readonly tokenP50Ms: number
  readonly tokenP99Ms: number
}

/** Requests that need a token of a slow auth service. */
export function tokenSection(proxies: {
  readonly each: Running
  readonly kept: Running
  readonly cache: Running
}): Section {
  const target = (name: string, { url }: Running): SectionTarget => ({
    name,
    url,
    get: '/call',
    // Its last token ended while others had their turn.
    warm: async () => void (await (await fetch(`${url}/call`)).text()),
    settle: async () => {
      const report = (await (await fetch(`${url}/report`)).json()) as TokenReport
      const { refused, ...counts } = report
      return { counts, ...(refused > 0 && { wrong: `the API refused ${refused} requests` }) }
    },
  })
  return {
    title: 'Tokens',
    about: [
      `A proxy calls an API that wants a token, which an auth service gives after ${tokenDelayMs} ms and which is good for ${tokenLifeMs / 1_000} s.`,
      'A token that is kept by hand is fetched by all who find it over, and all of them wait; TokenCache fetches the next one while the old one is still good.',
      'The API counts what it refuses: nothing.',
    ],
    keys: 1,
    prefix: '',
    targets: [
      target('naive, a token a request', proxies.each),
      target('a token kept by hand', proxies.kept),
      target('spillway, TokenCache', proxies.cache),
    ],
    note: ({ fetched = 0, tokenP50Ms = 0, tokenP99Ms = 0 }) =>
      `${Math.round(fetched).toLocaleString('en-US')} tokens fetched; a token took ${ms(tokenP50Ms)}, p99 ${ms(tokenP99Ms)}`,
  }
}

function ms(value: number): string {
  return value < 1 ? `${value.toFixed(3)} ms` : `${value.toFixed(0)} ms`
}
