import { randomUUID } from 'node:crypto'
import { Redis } from 'ioredis'
import { afterAll, afterEach, expect } from 'vitest'

/** What the tests of a file have one after the other: clients and what is made of them, under an id that is new for each test. */
export class TestFleet {
  #id: string = randomUUID()
  readonly #cleanUps: (() => unknown)[] = []

  get id(): string {
    return this.#id
  }

  /** A client that the fleet ends. */
  redis(url: string, options: object = {}): Redis {
    const client = new Redis(url, { maxRetriesPerRequest: 0, retryStrategy: () => 50, ...options })
    client.on('error', () => undefined)
    this.cleanUp(() => client.disconnect())
    return client
  }

  cleanUp(act: () => unknown): void {
    this.#cleanUps.push(act)
  }

  /** Takes apart what a test had, the latest first. */
  async end(): Promise<void> {
    try {
      for (const cleanUp of this.#cleanUps.splice(0).reverse()) await cleanUp()
    } finally {
      this.#id = randomUUID()
    }
  }
}

/** Ends the fleet after each test, which may leave no rejection that nobody looked at, and stops the server after the last. */
export function endedAfterEach<F extends TestFleet>(fleet: F, server: { stop(): Promise<void> } | undefined): F {
  const unhandled: unknown[] = []
  const onUnhandled = (reason: unknown): void => void unhandled.push(reason)
  process.on('unhandledRejection', onUnhandled)
  afterEach(async () => {
    await fleet.end()
    expect(unhandled.splice(0)).toEqual([])
  })
  afterAll(async () => {
    process.off('unhandledRejection', onUnhandled)
    await server?.stop()
  })
  return fleet
}
