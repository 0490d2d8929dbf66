import {
  type ClosableComponent,
  type InstanceSource,
  type InstanceState,
  type InstanceStatus,
  type Lease,
  type LeaseOutcome,
  LoadBalancer,
  type LoadBalancerEvents,
  type LoadBalancerStats,
} from 'spillway'
import { expectTypeOf } from 'vitest'

interface Server {
  readonly id: string
  readonly weight?: number
  readonly url: string
}

declare const servers: readonly Server[]
declare const source: InstanceSource<Server>

const balancer = new LoadBalancer(servers)
expectTypeOf(balancer).toEqualTypeOf<LoadBalancer<Server>>()
expectTypeOf(new LoadBalancer(async () => servers)).toEqualTypeOf<LoadBalancer<Server>>()
expectTypeOf(new LoadBalancer(source)).toEqualTypeOf<LoadBalancer<Server>>()
expectTypeOf(balancer).toExtend<ClosableComponent<LoadBalancerEvents<Server>, LoadBalancerStats>>()

expectTypeOf(balancer.pick()).toEqualTypeOf<Lease<Server>>()
expectTypeOf(balancer.pick().instance.url).toEqualTypeOf<string>()
expectTypeOf(balancer.pick().release).parameter(0).toEqualTypeOf<LeaseOutcome | undefined>()
expectTypeOf(balancer.pick()).toExtend<Disposable>()
expectTypeOf(balancer.instances()).toEqualTypeOf<readonly InstanceStatus<Server>[]>()
expectTypeOf<InstanceState>().toEqualTypeOf<'healthy' | 'unhealthy' | 'ejected' | 'draining'>()

const described = balancer.run(async ({ url }, { signal, attempt }) => ({ url, signal, attempt }))
expectTypeOf(described).resolves.toEqualTypeOf<{ url: string; signal: AbortSignal; attempt: number }>()
expectTypeOf(balancer.run(() => 7)).resolves.toEqualTypeOf<number>()
expectTypeOf(balancer.start()).resolves.toEqualTypeOf<void>()

balancer.on('updated', ({ added, removed, changed, instances }) => {
  expectTypeOf(added).toEqualTypeOf<readonly Server[]>()
  expectTypeOf(removed).toEqualTypeOf<readonly Server[]>()
  expectTypeOf(changed).toEqualTypeOf<readonly Server[]>()
  expectTypeOf(instances).toEqualTypeOf<readonly Server[]>()
})

new LoadBalancer(servers, { health: { check: (server, { signal }) => fetch(server.url, { signal }) } })
new LoadBalancer(servers, { ejection: { failureThreshold: 3, maxEjectedRatio: 0.3 } })
new LoadBalancer(servers, {
  onCounts: (counts) => {
    expectTypeOf(counts).toEqualTypeOf<ReadonlyMap<string, number>>()
  },
})

// @ts-expect-error an instance has an id
new LoadBalancer([{ url: 'http://127.0.0.1' }])
// @ts-expect-error no such algorithm
new LoadBalancer(servers, { algorithm: 'random' })
// @ts-expect-error an execution timeout is an option of run
new LoadBalancer(servers, { ejection: { timeoutMs: 100 } })
// @ts-expect-error no such outcome
balancer.pick().release('done')
// @ts-expect-error ids, not an array of them
balancer.pick({ exclude: ['a'] })
