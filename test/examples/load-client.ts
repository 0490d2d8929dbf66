import { setTimeout as delay } from 'node:timers/promises'
import { Agent, request } from 'undici'
import type { Acknowledgement } from '../../examples/counter-billing/counter/counters.ts'

/** What became of each increment of a load, by resource; each resource is incremented by 1, once. */
export interface LoadOutcome {
  /** Those that were acknowledged: each must be counted exactly once. */
  readonly acknowledged: string[]
  /** Those whose fate the answer leaves open, or that got none: each may be counted once. */
  readonly unknown: string[]
  /** Those that were refused without effect: none may be counted. */
  readonly refused: string[]
}

export interface LoadOptions {
  readonly url: string
  readonly acknowledgement: Acknowledgement
  readonly clients: number
  readonly prefix: string
  /** Ends the load. */
  readonly signal: AbortSignal
  readonly maxRequests: number
}

/** An outcome of nothing yet. */
export const noOutcome = (): LoadOutcome => ({ acknowledged: [], unknown: [], refused: [] })

/**
 * Increments resource after resource until it is told to stop.
 *
 * @param outcome - is filled as the answers come, and returned.
 */
export async function load(options: LoadOptions, outcome = noOutcome()): Promise<LoadOutcome> {
  const agent = new Agent({ connections: options.clients })
  let next = 0
  const client = async (): Promise<void> => {
    while (!options.signal.aborted && next < options.maxRequests) {
      const resource = `${options.prefix}${next++}`
      const fate = await increment(options, resource, agent)
      outcome[fate].push(resource)
      if (fate !== 'acknowledged') await delay(20)
    }
  }
  await Promise.all(Array.from({ length: options.clients }, client))
  await agent.close()
  return outcome
}

async function increment(
  { url, acknowledgement }: LoadOptions,
  resource: string,
  dispatcher: Agent,
): Promise<keyof LoadOutcome> {
  try {
    const { statusCode, body } = await request(`${url}/api/v1/counter/increment`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ resource_id: resource, counter_type: 'like', delta: 1, ack: acknowledgement }),
      dispatcher,
    })
    const answer = (await body.json()) as { applied?: 'no' | 'unknown' }
    if (statusCode < 300) return 'acknowledged'
    return answer.applied === 'unknown' ? 'unknown' : 'refused'
  } catch (error) {
    // A connection that was refused never carried the request.
    return (error as { code?: string }).code === 'ECONNREFUSED' ? 'refused' : 'unknown'
  }
}
