import { type AlgorithmName, type BalancedInstance, type Lease, LoadBalancer, type LoadBalancerOptions } from 'spillway'
import type { Aim, Contender, Contest } from './harness/contest.ts'
import { serveSuite } from './harness/suite-process.ts'

// A pick and a release, with 256 calls in flight: each turn of the loop gives back the oldest and picks the next. By hand
// that is a method that chooses and counts what is in flight, and one that counts it down: no leases that can be given back
// but once, no counters, no list that may change. Where that leaves next to nothing to do, in round robin, the aim is beside
// one that lends leases. Each contender has a loop of its own, and notes what it picked for its check.

const inFlight = 256
/** From 20 instances on: to choose by hand among three takes so little that the lease is all that would be compared. */
const aimFor = ({ count }: Setting): { aim?: Aim } => (count < 20 ? {} : { aim: { atMost: 2 } })

interface Instance extends BalancedInstance {
  readonly index: number
}

/** What a contest is about. */
interface Setting {
  readonly count: number
  readonly weightOf: (index: number) => number
  readonly operations: number
}

/** What was picked in a turn, and whether that may be. */
interface Picked {
  readonly indexes: Uint16Array
  readonly check: () => void
}

/** Throws unless everyone has its share of a turn's picks, but for those at its ends. */
function shares({ count, weightOf, operations }: Setting): Picked {
  const indexes = new Uint16Array(operations)
  const total = Array.from({ length: count }, (_, i) => weightOf(i)).reduce((sum, weight) => sum + weight, 0)
  const check = (): void => {
    const counts = new Uint32Array(count)
    for (const index of indexes) counts[index] = (counts[index] as number) + 1
    for (let i = 0; i < count; i++) {
      const expected = (operations * weightOf(i)) / total
      if (Math.abs((counts[i] as number) - expected) > 2) {
        throw new Error(`wrong answer: ${i} of ${count} should be picked ${expected} times, was ${counts[i]} times`)
      }
    }
    indexes.fill(65_535)
  }
  return { indexes, check }
}

/** Throws unless those that are in flight after a turn are spread so that nobody has more than the least possible and so many. */
function loads({ count, operations }: Setting, more: number): Picked {
  const indexes = new Uint16Array(operations)
  const most = Math.ceil(inFlight / count) + more
  const check = (): void => {
    const counts = new Uint32Array(count)
    for (const index of indexes.subarray(-inFlight)) {
      if (index >= count) throw new Error(`wrong answer: there is no instance ${index}`)
      counts[index] = (counts[index] as number) + 1
    }
    const busiest = Math.max(...counts)
    if (busiest > most) throw new Error(`wrong answer: one of ${count} has ${busiest} in flight, not up to ${most}`)
    indexes.fill(65_535)
  }
  return { indexes, check }
}

/** The same keys for all, and the owner that each has from its first pick on. */
function keyed({ operations }: Setting): Picked & { readonly keys: readonly string[] } {
  const keys = Array.from({ length: 1000 }, (_, i) => `user:${(i * 7919) % 100_003}`)
  const indexes = new Uint16Array(operations)
  const owners = new Map<string, number>()
  const check = (): void => {
    for (let i = 0; i < operations; i++) {
      const key = keys[i % keys.length] as string
      const owner = owners.get(key) ?? (indexes[i] as number)
      owners.set(key, owner)
      if (owner !== indexes[i]) throw new Error(`wrong answer: ${key} was ${owner}'s, now ${indexes[i]}'s`)
    }
    if (new Set(owners.values()).size < 3) throw new Error('wrong answer: one or two own all keys')
  }
  return { keys, indexes, check }
}

function instancesOf({ count, weightOf }: Setting): Instance[] {
  return Array.from({ length: count }, (_, index) => ({ id: `instance-${index}`, index, weight: weightOf(index) }))
}

const spillway = (setting: Setting, picked: () => Picked, options: LoadBalancerOptions<Instance>): Contender => ({
  name: 'spillway',
  prepare: () => {
    const { indexes, check } = picked()
    const balancer = new LoadBalancer(instancesOf(setting), options)
    const leases: Lease<Instance>[] = Array.from({ length: inFlight }, () => balancer.pick())
    let oldest = 0
    const turn = (): void => {
      for (let i = 0; i < indexes.length; i++) {
        leases[oldest]?.release()
        const lease = balancer.pick()
        indexes[i] = lease.instance.index
        leases[oldest] = lease
        oldest = (oldest + 1) & (inFlight - 1)
      }
    }
    return { async: false, turn, check }
  },
})

const spillwayByKey = (setting: Setting, hash: 'maglev' | 'ring', name: string): Contender => ({
  name,
  prepare: () => {
    const { keys, indexes, check } = keyed(setting)
    const balancer = new LoadBalancer(instancesOf(setting), { algorithm: 'consistent_hash', hash })
    const leases: Lease<Instance>[] = Array.from({ length: inFlight }, () => balancer.pick())
    const picks = keys.map((key) => ({ key }))
    let oldest = 0
    const turn = (): void => {
      let next = 0
      for (let i = 0; i < indexes.length; i++) {
        leases[oldest]?.release()
        const lease = balancer.pick(picks[next])
        indexes[i] = lease.instance.index
        leases[oldest] = lease
        oldest = (oldest + 1) & (inFlight - 1)
        next = next + 1 < picks.length ? next + 1 : 0
      }
    }
    return { async: false, turn, check }
  },
})

/** An instance as one keeps it oneself. */
interface Counted {
  readonly index: number
  readonly weight: number
  inFlight: number
  current: number
  latencyMs: number
  startedMs: number
  heardMs: number
}

interface HandBalancer {
  pick(key: string): Counted
  release(instance: Counted): void
}

function countedOf({ count, weightOf }: Setting): Counted[] {
  return Array.from({ length: count }, (_, index) => ({
    index,
    weight: weightOf(index),
    inFlight: 0,
    current: 0,
    latencyMs: 0,
    startedMs: 0,
    heardMs: 0,
  }))
}

const byHand = (
  name: string,
  setting: Setting,
  picked: () => Picked & { readonly keys?: readonly string[] },
  make: (instances: Counted[]) => HandBalancer,
  aimless?: 'aimless',
): Contender => ({
  name,
  ...(aimless === undefined && aimFor(setting)),
  prepare: () => {
    const { indexes, check, keys = [''] } = picked()
    const balancer = make(countedOf(setting))
    const out: Counted[] = Array.from({ length: inFlight }, () => balancer.pick(''))
    let oldest = 0
    const turn = (): void => {
      let next = 0
      for (let i = 0; i < indexes.length; i++) {
        balancer.release(out[oldest] as Counted)
        const instance = balancer.pick(keys[next] as string)
        indexes[i] = instance.index
        out[oldest] = instance
        oldest = (oldest + 1) & (inFlight - 1)
        next = next + 1 < keys.length ? next + 1 : 0
      }
    }
    return { async: false, turn, check }
  },
})

class HandRoundRobin implements HandBalancer {
  readonly #instances: Counted[]
  #next = 0

  constructor(instances: Counted[]) {
    this.#instances = instances
  }

  pick(): Counted {
    const instance = this.#instances[this.#next] as Counted
    this.#next = (this.#next + 1) % this.#instances.length
    instance.inFlight++
    return instance
  }

  release(instance: Counted): void {
    instance.inFlight--
  }
}

/** What a lease is for: what is given back twice counts once. */
class HandLease {
  readonly instance: Counted
  #released = false

  constructor(instance: Counted) {
    this.instance = instance
  }

  release(): void {
    if (this.#released) return
    this.#released = true
    this.instance.inFlight--
  }
}

const leasedByHand = (setting: Setting, picked: () => Picked): Contender => ({
  name: 'array index and a lease by hand',
  ...aimFor(setting),
  prepare: () => {
    const { indexes, check } = picked()
    const balancer = new HandRoundRobin(countedOf(setting))
    const leases = Array.from({ length: inFlight }, () => new HandLease(balancer.pick()))
    let oldest = 0
    const turn = (): void => {
      for (let i = 0; i < indexes.length; i++) {
        leases[oldest]?.release()
        const lease = new HandLease(balancer.pick())
        indexes[i] = lease.instance.index
        leases[oldest] = lease
        oldest = (oldest + 1) & (inFlight - 1)
      }
    }
    return { async: false, turn, check }
  },
})

class HandP2c implements HandBalancer {
  readonly #instances: Counted[]

  constructor(instances: Counted[]) {
    this.#instances = instances
  }

  pick(): Counted {
    const { length } = this.#instances
    const first = Math.floor(Math.random() * length)
    let second = Math.floor(Math.random() * (length - 1))
    if (second >= first) second++
    const one = this.#instances[first] as Counted
    const other = this.#instances[second] as Counted
    const instance = other.inFlight < one.inFlight ? other : one
    instance.inFlight++
    return instance
  }

  release(instance: Counted): void {
    instance.inFlight--
  }
}

class HandLeastConn implements HandBalancer {
  readonly #instances: Counted[]

  constructor(instances: Counted[]) {
    this.#instances = instances
  }

  pick(): Counted {
    let least = this.#instances[0] as Counted
    for (const instance of this.#instances) if (instance.inFlight < least.inFlight) least = instance
    least.inFlight++
    return least
  }

  release(instance: Counted): void {
    instance.inFlight--
  }
}

/** The loop of nginx. */
class HandWeighted implements HandBalancer {
  readonly #instances: Counted[]
  readonly #total: number

  constructor(instances: Counted[]) {
    this.#instances = instances
    this.#total = instances.reduce((sum, { weight }) => sum + weight, 0)
  }

  pick(): Counted {
    let best = this.#instances[0] as Counted
    for (const instance of this.#instances) {
      instance.current += instance.weight
      if (instance.current > best.current) best = instance
    }
    best.current -= this.#total
    best.inFlight++
    return best
  }

  release(instance: Counted): void {
    instance.inFlight--
  }
}

/**
 * Two choices by latency and load. The clock is read for each pick and release, as one does at first, and only the latest pick
 * of an instance is timed.
 */
class HandPeakEwma implements HandBalancer {
  readonly #instances: Counted[]
  readonly #decayMs = 10_000

  constructor(instances: Counted[]) {
    this.#instances = instances
  }

  pick(): Counted {
    const { length } = this.#instances
    const nowMs = performance.now()
    const first = Math.floor(Math.random() * length)
    let second = Math.floor(Math.random() * (length - 1))
    if (second >= first) second++
    const one = this.#instances[first] as Counted
    const other = this.#instances[second] as Counted
    const instance = this.#cost(other, nowMs) < this.#cost(one, nowMs) ? other : one
    instance.startedMs = nowMs
    instance.inFlight++
    return instance
  }

  release(instance: Counted): void {
    const nowMs = performance.now()
    const tookMs = nowMs - instance.startedMs
    const kept = Math.exp((instance.heardMs - nowMs) / this.#decayMs)
    instance.latencyMs = tookMs > instance.latencyMs ? tookMs : instance.latencyMs * kept + tookMs * (1 - kept)
    instance.heardMs = nowMs
    instance.inFlight--
  }

  #cost(instance: Counted, nowMs: number): number {
    return instance.latencyMs * Math.exp((instance.heardMs - nowMs) / this.#decayMs) * (instance.inFlight + 1)
  }
}

/** A ring with 160 points an instance, as one writes it: FNV-1a, and a binary search. */
class HandRing implements HandBalancer {
  readonly #points: { readonly at: number; readonly instance: Counted }[]

  constructor(instances: Counted[]) {
    this.#points = instances
      .flatMap((instance) => {
        return Array.from({ length: 160 }, (_, i) => ({ at: this.#hash(`${i}:instance-${instance.index}`), instance }))
      })
      .sort((a, b) => a.at - b.at)
  }

  pick(key: string): Counted {
    const hash = this.#hash(key)
    let low = 0
    let high = this.#points.length
    while (low < high) {
      const middle = (low + high) >> 1
      if ((this.#points[middle] as { at: number }).at < hash) low = middle + 1
      else high = middle
    }
    const { instance } = this.#points[low === this.#points.length ? 0 : low] as { instance: Counted }
    instance.inFlight++
    return instance
  }

  release(instance: Counted): void {
    instance.inFlight--
  }

  #hash(text: string): number {
    let hash = 0x811c9dc5
    for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
    hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
    return (hash ^ (hash >>> 13)) >>> 0
  }
}

/** The choice alone, which a request makes before anything is sent: it counts nothing that is in flight. */
const balancedPool = (setting: Setting, picked: () => Picked): Contender => ({
  name: "undici BalancedPool's choice",
  prepare: async () => {
    const { BalancedPool, Pool } = await import('undici')
    const { indexes, check } = picked()
    const choice = Object.getOwnPropertySymbols(BalancedPool.prototype).find(
      ({ description }) => description === 'get dispatcher',
    )
    if (choice === undefined) throw new Error("undici's BalancedPool has no method 'get dispatcher' any more")
    const indexOf = new Map<unknown, number>()
    const origins = instancesOf(setting).map(({ index }) => `http://127.0.0.1:${10_000 + index}`)
    const pool = new BalancedPool(origins, {
      factory: (origin: URL, options: object) => {
        const dispatcher = new Pool(origin, options)
        indexOf.set(dispatcher, indexOf.size)
        return dispatcher
      },
    }) as unknown as Record<symbol, () => unknown>
    const chosen = new Array<unknown>(indexes.length)
    const turn = (): void => {
      for (let i = 0; i < chosen.length; i++) chosen[i] = pool[choice]?.()
    }
    return {
      async: false,
      turn,
      check: () => {
        for (let i = 0; i < chosen.length; i++) indexes[i] = indexOf.get(chosen[i]) ?? 65_535
        check()
      },
    }
  },
})

const equal = (): number => 1
const fiveWeights = (index: number): number => 1 + (index % 5)

function contest(name: AlgorithmName, setting: Setting, contenders: Contest['contenders']): Contest {
  const { count, operations } = setting
  return { name: `${name}, ${count} instances`, operation: 'pick', operations, contenders }
}

const contests = [3, 20, 100, 1000].flatMap((count): Contest[] => {
  // What looks at everyone takes microseconds for a thousand.
  const operations = count === 1000 ? 2000 : 10_000
  const setting: Setting = { count, operations, weightOf: equal }
  const weighted: Setting = { count, operations, weightOf: fiveWeights }
  const turns = (): Picked => shares(setting)
  const fewest = (): Picked => loads(setting, 0)
  const few = (): Picked => loads(setting, 5)
  const weights = (): Picked => shares(weighted)
  // Latencies here are what the machine does: anything may be the fastest.
  const anyone = (): Picked => loads(setting, inFlight)
  const keys = () => keyed(setting)
  const { random } = Math
  return [
    contest('round_robin', setting, [
      spillway(setting, turns, { algorithm: 'round_robin' }),
      leasedByHand(setting, turns),
      byHand('array index by hand', setting, turns, (list) => new HandRoundRobin(list), 'aimless'),
      balancedPool(setting, turns),
    ]),
    contest('weighted', weighted, [
      spillway(weighted, weights, { algorithm: 'weighted' }),
      byHand("nginx's loop by hand", weighted, weights, (list) => new HandWeighted(list)),
    ]),
    contest('least_conn', setting, [
      spillway(setting, fewest, { algorithm: 'least_conn' }),
      byHand('full scan by hand', setting, fewest, (list) => new HandLeastConn(list)),
    ]),
    contest('p2c', setting, [
      spillway(setting, few, { algorithm: 'p2c', random }),
      byHand('two draws by hand', setting, few, (list) => new HandP2c(list)),
    ]),
    contest('peak_ewma', setting, [
      spillway(setting, anyone, { algorithm: 'peak_ewma', random }),
      byHand('two draws by hand', setting, anyone, (list) => new HandPeakEwma(list)),
    ]),
    contest('consistent_hash', setting, [
      spillwayByKey(setting, 'maglev', 'spillway, maglev'),
      spillwayByKey(setting, 'ring', 'spillway, ring'),
      byHand('ring and binary search by hand', setting, keys, (list) => new HandRing(list)),
    ]),
  ]
})

await serveSuite(contests)
