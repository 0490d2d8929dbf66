// A process that watches and registers, closes neither, and has nothing more to do. Names have these addresses, if any
// are given.
import dns from 'node:dns'
import { LoadBalancer } from 'spillway'
import { ConsulRegistration, consulSource } from 'spillway/consul'

const [address, service, ...addresses] = process.argv.slice(2) as [string, string, ...string[]]

type Answered = (error: null, addresses: { address: string; family: number }[]) => void
if (addresses.length > 0) {
  const all = addresses.map((each) => ({ address: each, family: each.includes(':') ? 6 : 4 }))
  const lookup = (_name: string, _options: object, answered: Answered): void => void setImmediate(answered, null, all)
  Object.assign(dns, { lookup })
}

const registration = new ConsulRegistration({ address, service, host: '127.0.0.1', port: 1, check: { ttlMs: 3000 } })
await registration.start()
await registration.flush()
const balancer = new LoadBalancer(consulSource({ address, service }))
await balancer.start()
using lease = balancer.pick()
// Time for the blocking query to be on its way.
await new Promise((resolve) => setTimeout(resolve, 300))
console.log(`done ${lease.instance.port}`)
