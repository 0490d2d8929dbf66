import type { FleetMember } from '../fleet.ts'
import { FaultRefused } from './fault-control.ts'
import type { FaultState } from './sample.ts'

interface Instance {
  readonly id: string
  member: FleetMember
  alive: boolean
  changing: boolean
}

/** Kills counter services that have processes of their own, as a crash would, and starts others in their places. */
export class InstanceFaults {
  readonly #instances: readonly Instance[]
  readonly #start: (port: string) => Promise<FleetMember>

  /** @param start - starts one that listens where the one before it did: gateways know them by their addresses. */
  constructor(members: readonly FleetMember[], start: (port: string) => Promise<FleetMember>) {
    this.#instances = members.map((member) => ({ id: member.address, member, alive: true, changing: false }))
    this.#start = start
  }

  state(): FaultState['instances'] {
    return this.#instances.map(({ id, alive, changing }) => ({ id, alive, changing }))
  }

  async kill(id: string): Promise<void> {
    const instance = this.#find(id)
    if (!instance.alive) throw new FaultRefused(`${id} is dead already`)
    await this.#change(instance, false, () => instance.member.kill())
  }

  /** Takes seconds; what can't be meant throws at once. */
  start(id: string): Promise<void> {
    const instance = this.#find(id)
    if (instance.alive) throw new FaultRefused(`${id} is there already`)
    return this.#change(instance, true, async () => {
      instance.member = await this.#start(id.slice(id.lastIndexOf(':') + 1))
    })
  }

  async startAll(): Promise<void> {
    const dead = this.#instances.filter(({ alive, changing }) => !alive && !changing)
    await Promise.all(dead.map(({ id }) => this.start(id)))
  }

  /** Ends them as they end ordinarily: they write what they accepted. */
  async close(): Promise<void> {
    await Promise.all(this.#instances.map(({ member }) => member.close()))
  }

  #find(id: string): Instance {
    const instance = this.#instances.find((one) => one.id === id)
    if (instance === undefined) throw new FaultRefused(`there is no counter service at ${id}`)
    if (instance.changing) throw new FaultRefused(`${id} is being killed or started`)
    return instance
  }

  async #change(instance: Instance, alive: boolean, work: () => Promise<void>): Promise<void> {
    instance.changing = true
    try {
      await work()
      instance.alive = alive
    } finally {
      instance.changing = false
    }
  }
}
