import type { FaultAction, Hello, Sample } from '../../examples/counter-billing/dashboard/sample.ts'
import { demoCommand, startGroup } from './process-group.ts'

const endMs = 30_000

/** The demo with its dashboard. */
export interface DashboardDemo {
  /** Of the gateway. */
  readonly url: string
  /** What it printed so far. */
  readonly output: () => string
  /** Ctrl-C; whoever doesn't end of it is killed. Returns the exit code, or the signal. */
  stop(): Promise<number | string | null>
}

/** Starts it: on the servers that the environment names, and otherwise on what is in the process. */
export async function startDashboardDemo(
  flags: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<DashboardDemo> {
  const command = [...demoCommand, '--serve', '--port', '0', ...flags] as const
  const group = startGroup(command, { LOG_LEVEL: 'info', ...env })
  const kill = (): void => group.signal('SIGKILL')
  process.once('exit', kill)
  const stop = async (): Promise<number | string | null> => {
    group.signal('SIGINT')
    const timer = setTimeout(kill, endMs)
    const { code, signal } = await group.ended
    clearTimeout(timer)
    kill()
    process.off('exit', kill)
    return code ?? signal
  }
  try {
    await group.prints(/Ctrl-C ends it/)
  } catch (error) {
    kill()
    throw error
  }
  return { url: /(http:\S+)\/dashboard/.exec(group.output())?.[1] ?? '', output: group.output, stop }
}

/** Looks at a gateway as the page does. */
export class Viewer {
  readonly #abort = new AbortController()
  readonly samples: Sample[] = []
  hello: Hello | undefined

  /** Begins to look; `ended` resolves when the other side has closed the stream. */
  async open(url: string): Promise<Response> {
    const response = await fetch(`${url}/dashboard/events`, { signal: this.#abort.signal })
    if (response.body !== null && response.ok) this.#read(response.body).catch(() => undefined)
    return response
  }

  get latest(): Sample | undefined {
    return this.samples.at(-1)
  }

  close(): void {
    this.#abort.abort()
  }

  async #read(body: ReadableStream<Uint8Array>): Promise<void> {
    const decoder = new TextDecoder()
    let text = ''
    for await (const chunk of body) {
      text += decoder.decode(chunk, { stream: true })
      const events = text.split('\n\n')
      text = events.pop() ?? ''
      for (const event of events) this.#take(event)
    }
  }

  #take(event: string): void {
    const [, name, data = ''] = /^event: (\w+)\ndata: (.*)$/s.exec(event) ?? []
    if (name === 'hello') this.hello = JSON.parse(data) as Hello
    if (name === 'sample') this.samples.push(JSON.parse(data) as Sample)
  }
}

/** Asks for a fault as the page does: from the same origin, with the token that the page was given. */
export async function askForFault(url: string, action: FaultAction): Promise<Response> {
  const page = await (await fetch(`${url}/dashboard`)).text()
  const token = /name="faults-token" content="([^"]*)"/.exec(page)?.[1] ?? ''
  return fetch(`${url}/dashboard/faults`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'x-dashboard-token': token, origin: url },
    body: JSON.stringify(action),
  })
}
