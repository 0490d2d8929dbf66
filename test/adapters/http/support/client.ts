import { createHttpClient, type HttpClient, type HttpClientOptions } from 'spillway/http'
import * as undici from 'undici'
import { afterEach, expect } from 'vitest'

const clients = new Set<HttpClient>()

afterEach(async () => {
  const left = [...clients]
  clients.clear()
  for (const client of left) {
    await client.close({ timeoutMs: 0 })
    balanced(client)
    expect(client.stats().pending).toBe(0)
  }
})

/** A client that is closed, and whose books are checked, after the test. */
export function makeClient(options: HttpClientOptions = {}): HttpClient {
  const client = createHttpClient(undici, options)
  clients.add(client)
  return client
}

/** The books of a client balance. */
export function balanced(client: HttpClient): void {
  const { offered, succeeded, failed, rejected, aborted, pending } = client.stats()
  expect(offered).toBe(succeeded + failed + rejected + aborted + pending)
}

/** What a promise rejects with. */
export async function failureOf(promise: Promise<unknown>): Promise<Error & Record<string, unknown>> {
  const outcome = await promise.then(
    (value) => ({ value }),
    (error: unknown) => ({ error }),
  )
  if ('error' in outcome) return outcome.error as never
  throw new Error(`expected a rejection, got ${JSON.stringify(outcome.value)}`)
}
