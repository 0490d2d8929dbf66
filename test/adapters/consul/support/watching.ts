import { type ConsulInstance, type ConsulSourceOptions, consulSource } from 'spillway/consul'

/** A watch, and what it was told so far. */
export interface Watching {
  readonly lists: (readonly ConsulInstance[])[]
  readonly errors: unknown[]
  /** The service ids of the latest list. */
  ids(): string[] | undefined
  stop(): void
}

/** Watches a service. */
export function watching(options: ConsulSourceOptions): Watching {
  const controller = new AbortController()
  const lists: (readonly ConsulInstance[])[] = []
  const errors: unknown[] = []
  consulSource(options).watch((list) => lists.push(list), {
    signal: controller.signal,
    onError: (error) => errors.push(error),
  })
  return {
    lists,
    errors,
    ids: () => lists.at(-1)?.map(({ serviceId }) => serviceId),
    stop: () => controller.abort(new Error('the test is over')),
  }
}

/** Polls until something holds on a real server. */
export async function until(
  condition: () => boolean | Promise<boolean>,
  what: string,
  timeoutMs = 15_000,
): Promise<void> {
  const deadline = performance.now() + timeoutMs
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`it never came to that: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

/** Lets real time pass, in which something must not happen. */
export function elapse(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

/** A service's name that no other test uses: the Consul may be shared. */
export function uniqueService(): string {
  return `spillway-${process.pid}-${Math.random().toString(36).slice(2, 10)}`
}
