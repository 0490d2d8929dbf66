import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'

const startMs = 60_000

/** A part of the service in a process of its own. */
export interface FleetMember {
  /** Where it listens: `host:port`, a gateway's URL, nothing of a usage worker. */
  readonly address: string
  readonly pid: number
  /** How it has ended: by a signal, or with a code. */
  readonly ended: Promise<string>
  /** SIGKILL: it ends at once, as in a crash. */
  kill(): Promise<void>
  /** Lets it write what it accepted, and end. */
  close(): Promise<void>
}

/**
 * Starts parts of the service in processes of their own; they end with this one, however it ends.
 *
 * @param flags - the flags of `main.ts` for each of them.
 * @param envOf - what of the environment is different for each.
 * @param tell - told what they write to stderr, line by line.
 */
export async function startFleet(
  flags: readonly (readonly string[])[],
  envOf: (index: number) => Readonly<Record<string, string>>,
  tell: (line: string) => void,
): Promise<FleetMember[]> {
  const started = await Promise.allSettled(flags.map((own, index) => startMember(own, envOf(index), tell)))
  const members = started.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []))
  const failure = started.find((one) => one.status === 'rejected')
  if (failure === undefined) return members
  await Promise.all(members.map((member) => member.close()))
  throw failure.reason
}

/**
 * Starts one of them.
 *
 * @param signal - gives it up, as long as it starts.
 */
export async function startMember(
  flags: readonly string[],
  env: Readonly<Record<string, string>>,
  tell: (line: string) => void,
  signal?: AbortSignal,
): Promise<FleetMember> {
  const main = fileURLToPath(new URL('./main.ts', import.meta.url))
  const child = fork(main, ['--with-parent', ...flags], {
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    env: { ...process.env, ...env },
  })
  const said = once(createInterface(child.stderr as Readable).on('line', tell), 'close')
  const hasEnded = new Promise<string>((resolve) => {
    child.once('exit', (code, signal) => resolve(String(signal ?? code)))
    child.once('error', ({ message }) => resolve(message))
  })
  const end = async (how: () => void): Promise<void> => {
    // One that could not be started has no end either.
    if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
    const exited = once(child, 'exit')
    how()
    await exited
    // What it said last has been told by then. (Nothing closes a child whose channel was closed on this side.)
    await said
  }
  const kill = (): Promise<void> => end(() => child.kill('SIGKILL'))
  const close = (): Promise<void> => end(() => child.connected && child.disconnect())
  try {
    return { address: await addressOf(child, signal), pid: child.pid as number, ended: hasEnded, kill, close }
  } catch (error) {
    await kill()
    throw error
  }
}

/** What it says once it listens. */
function addressOf(child: ChildProcess, signal: AbortSignal | undefined): Promise<string> {
  return new Promise((resolve, reject) => {
    const giveUp = (): void => reject(new Error('it was given up'))
    const timer = setTimeout(() => reject(new Error(`a part of the service took over ${startMs} ms to start`)), startMs)
    signal?.addEventListener('abort', giveUp)
    if (signal?.aborted) giveUp()
    child.once('message', (message) => resolve((message as { url: string }).url))
    child.once('error', reject)
    child.once('exit', (code, signal) => reject(new Error(`a part of the service ended early, with ${signal ?? code}`)))
    for (const event of ['message', 'error', 'exit']) {
      child.once(event, () => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', giveUp)
      })
    }
  })
}
