import { type InstanceSource, LoadBalancer } from 'spillway'
import {
  type ConsulInstance,
  ConsulRegistration,
  type ConsulRegistrationStats,
  type ConsulSourceOptions,
  consulSource,
} from 'spillway/consul'

const source: InstanceSource<ConsulInstance> = consulSource({ service: 'web', tags: ['a'], address: undefined })
const balancer: LoadBalancer<ConsulInstance> = new LoadBalancer(source)
const port: number = balancer.pick().instance.port
const answer: Promise<string> = balancer.run(async ({ host, meta }) => `${host} ${meta['zone']} ${port}`)

const registration = new ConsulRegistration({
  service: 'web',
  host: 'h',
  port: 1,
  check: { ttlMs: 1000, health: async () => ({ status: 'warning', note: 'n' }) },
})
const state: ConsulRegistrationStats['state'] = registration.stats().state
registration.on('registered', ({ id, again }: { id: string; again: boolean }) => void [id, again, state, answer])

// @ts-expect-error a service is needed
consulSource({})
// @ts-expect-error no such consistency
const wrong: ConsulSourceOptions = { service: 'web', consistency: 'weak' }
// @ts-expect-error a port is needed
new ConsulRegistration({ service: 'web', host: 'h' })
// @ts-expect-error an interval is needed
new ConsulRegistration({ service: 'web', host: 'h', port: 1, check: { http: 'http://h' } })
// @ts-expect-error no such status
new ConsulRegistration({ service: 'web', host: 'h', port: 1, check: { ttlMs: 1000, health: () => 'fine' } })
// @ts-expect-error no such event
registration.on('lost', () => undefined)
// @ts-expect-error an instance can't be changed
balancer.pick().instance.port = wrong
