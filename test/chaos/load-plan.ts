import { seededRandom } from 'spillway/testing'

/** A request that a client is to make. Which gateway it asks is an index of those that there are. */
export type PlannedRequest = { readonly gateway: number } & (
  | {
      readonly kind: 'add'
      readonly ack: 'accepted' | 'redis' | 'committed'
      /** Whose use it is. */
      readonly user?: string
      /** An `Idempotency-Key`: it is sent until it is answered. */
      readonly idempotencyKey?: string
      /** Key parts and deltas; more than one is a batch. */
      readonly operations: readonly { readonly resource: string; readonly type: string; readonly delta: number }[]
    }
  | {
      readonly kind: 'read'
      readonly source: 'live' | 'durable'
      readonly fresh: boolean
      readonly resource: string
      readonly type: string
    }
  | { readonly kind: 'page'; readonly resource: string; readonly fresh: boolean }
  | {
      readonly kind: 'recharge' | 'deduct'
      readonly user: string
      readonly request: string
      readonly count: number
      /** Whether a second one is sent at the same time. */
      readonly twin: boolean
    }
  | {
      readonly kind: 'reserve'
      readonly user: string
      readonly request: string
      readonly count: number
      readonly ttlMs: number
      /** What follows it: nothing where it is left to expire. */
      readonly then: 'settle' | 'release' | 'nothing'
      readonly settled: number
    }
)

/** The users whose writes are metered, those who have money, and the resources that all clients write and read, at a time. */
const users = 8
const payers = 6
const hot = 4
/**
 * After how many requests a client goes over to other users and resources, all clients at about the same time: what is unknown of one while
 * something goes wrong must not make up for what is lost of it at another time.
 */
const shift = 30
const types = ['like', 'view', 'share']
const gateways = 2
const maxBatch = 12

/** Makes the same requests for the same seed and client, whatever is answered. */
export function* planOf(seed: number, client: number): Generator<PlannedRequest, never> {
  const random = seededRandom(`load ${seed} ${client}`)
  const below = (most: number): number => Math.floor(random() * most)
  const oneOf = <T>(list: readonly T[]): T => list[below(list.length)] as T
  for (let n = 0; ; n++) {
    const now = Math.floor(n / shift)
    const hotResource = (): string => `hot-${now}-${below(hot)}`
    const hotKey = (): { resource: string; type: string } => ({ resource: hotResource(), type: oneOf(types) })
    const gateway = below(gateways)
    const chance = random()
    const id = `${client}-${n}`
    if (chance < 0.55) {
      const ack = oneOf(['accepted', 'redis', 'committed'] as const)
      const size = random() < 0.2 ? 2 + below(maxBatch - 1) : 1
      const operations = Array.from({ length: size }, (_, place) =>
        // Keys that nobody else has tell exactly what became of one increment.
        random() < 0.5
          ? { resource: `own-${id}-${place}`, type: 'like', delta: 1 }
          : { ...hotKey(), delta: 1 + below(3) },
      )
      // As with keys, half of the users are of one request alone.
      const user = n % 2 === 0 ? `writer-${now}-${below(users)}` : `own-${id}`
      // One that is made again may be metered again: that is not what is looked at here.
      const whose = random() < 0.15 ? { idempotencyKey: `k-${seed}-${id}` } : { user }
      yield { kind: 'add', gateway, ack, ...whose, operations }
    } else if (chance < 0.75) {
      const source = oneOf(['live', 'durable'] as const)
      yield { kind: 'read', gateway, source, fresh: random() < 0.3, ...hotKey() }
    } else if (chance < 0.8) {
      yield { kind: 'page', gateway, resource: hotResource(), fresh: random() < 0.3 }
    } else if (chance < 0.84 || n < 2) {
      const request = { user: `payer-${below(payers)}`, request: `r-${id}`, count: 10 + below(90) }
      yield { kind: 'recharge', gateway, ...request, twin: random() < 0.3 }
    } else if (chance < 0.93) {
      const request = { user: `payer-${below(payers)}`, request: `d-${id}`, count: 1 + below(5) }
      yield { kind: 'deduct', gateway, ...request, twin: random() < 0.3 }
    } else {
      const count = 1 + below(8)
      const then = oneOf(['settle', 'settle', 'release', 'nothing'] as const)
      const request = { user: `payer-${below(payers)}`, request: `v-${id}`, count, settled: below(count + 1) }
      yield { kind: 'reserve', gateway, ...request, ttlMs: 3_000 + below(5_000), then }
    }
  }
}
