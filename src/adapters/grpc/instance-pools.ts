import type { ChannelOptions } from '@grpc/grpc-js'
import type { CloseReport } from '../../core/component.js'
import { failOption } from '../../core/options.js'
import type { GrpcChannelPool } from './grpc-channel-pool.js'
import type { GrpcClient } from './grpc-client.js'

/** Why an instance's pool takes no more calls: it left the list, or its id leads to another address. */
export type RetireReason = 'left' | 'moved'

/** An instance with the pool of its channels. */
export interface InstancePool<Instance, Client extends GrpcClient> {
  /** The instance as the list has it; its address never changes. */
  instance: Instance
  readonly id: string
  readonly address: string
  readonly pool: GrpcChannelPool<Client>
}

/** What the pools need of their owner. */
export interface InstancePoolsOwner<Instance, Client extends GrpcClient> {
  /** The present list. */
  listed(): readonly Instance[]
  addressOf(instance: Instance): string
  makePool(makeClient: (channelOptions: ChannelOptions) => Client, id: string): GrpcChannelPool<Client>
  makeClient(instance: Instance, channelOptions: ChannelOptions): Client
  /** How long the pool of an instance that left may go on with its calls, in milliseconds. */
  readonly drainTimeoutMs: number
  onOpened(of: InstancePool<Instance, Client>): void
  onRetired(of: InstancePool<Instance, Client>, reason: RetireReason): void
  onClosed(of: InstancePool<Instance, Client>, report: CloseReport): void
}

/**
 * One pool an instance, by id, made at its first use.
 *
 * The list is what counts: a pool whose instance isn't in it, or has another address there, takes no more calls, and closes
 * once those that it has are settled. So there are never more open pools than instances.
 */
export class InstancePools<Instance extends { readonly id: string }, Client extends GrpcClient> {
  readonly #owner: InstancePoolsOwner<Instance, Client>
  readonly #open = new Map<string, InstancePool<Instance, Client>>()
  readonly #draining = new Set<InstancePool<Instance, Client>>()
  #listed = new Map<string, Instance>()

  constructor(owner: InstancePoolsOwner<Instance, Client>) {
    this.#owner = owner
  }

  /** The pools that take calls. */
  get open(): Iterable<InstancePool<Instance, Client>> {
    return this.#open.values()
  }

  /** The pools that take no more calls, but still have some. */
  get draining(): ReadonlySet<InstancePool<Instance, Client>> {
    return this.#draining
  }

  /** The pool of an instance, as the list has it now. Throws what `makeClient` throws. */
  of(instance: Instance): InstancePool<Instance, Client> {
    const found = this.#open.get(instance.id)
    if (found?.instance === instance) return found
    const listed = this.#listed.get(instance.id)
    const address = this.#owner.addressOf(instance)
    if (listed === undefined || !this.#isAt(listed, address)) {
      // Whoever chose it may know a list that we weren't told of yet.
      this.update()
    } else if (found !== undefined) {
      found.instance = instance
      return found
    }
    return this.#open.get(instance.id) ?? this.#make(this.#listed.get(instance.id) ?? instance)
  }

  /** To be called after each use: an instance that was chosen and had left before it was called keeps no pool. */
  used(of: InstancePool<Instance, Client>): void {
    if (!this.#listed.has(of.id) && this.#open.get(of.id) === of) void this.#retire(of, 'left')
  }

  /** Follows the list. */
  update(): void {
    const listed = new Map<string, Instance>()
    for (const instance of this.#owner.listed()) listed.set(instance.id, instance)
    this.#listed = listed
    for (const open of [...this.#open.values()]) {
      // A listener of the ones before may have changed the list once more: whatever is the latest one counts.
      if (this.#open.get(open.id) !== open) continue
      const now = this.#listed.get(open.id)
      if (now === undefined) void this.#retire(open, 'left')
      else if (this.#isAt(now, open.address)) open.instance = now
      else void this.#retire(open, 'moved')
    }
  }

  /** Closes all of them once their calls are settled, or at once with what is left of those. */
  async close(options?: { timeoutMs: number }): Promise<void> {
    await Promise.all([...this.#open.values(), ...this.#draining].map(({ pool }) => pool.close(options)))
    this.#open.clear()
  }

  /** Where `addressOf` fails for an instance, it moves: whoever calls it is told why, and the others aren't held up. */
  #isAt(instance: Instance, address: string): boolean {
    try {
      return this.#owner.addressOf(instance) === address
    } catch {
      return false
    }
  }

  #make(instance: Instance): InstancePool<Instance, Client> {
    const { id } = instance
    const address = this.#owner.addressOf(instance)
    // A pool that grows, or replaces a channel, makes clients later: for the instance as it is then.
    let made: InstancePool<Instance, Client> | undefined
    const pool = this.#owner.makePool(
      (channelOptions) => this.#owner.makeClient(made?.instance ?? instance, channelOptions),
      id,
    )
    made = { instance, id, address, pool }
    this.#open.set(id, made)
    this.#owner.onOpened(made)
    return made
  }

  async #retire(of: InstancePool<Instance, Client>, reason: RetireReason): Promise<void> {
    this.#open.delete(of.id)
    this.#draining.add(of)
    this.#owner.onRetired(of, reason)
    const report = await of.pool.close({ timeoutMs: this.#owner.drainTimeoutMs })
    this.#draining.delete(of)
    this.#owner.onClosed(of, report)
  }
}

/** Where an instance is, by the fields that lists of instances have for it; where there are none, its id. */
export function addressFieldsOf(instance: { readonly id: string }): string {
  const { url, address, host, port } = instance as { readonly [field: string]: unknown }
  const where = String(url ?? address ?? host ?? instance.id)
  return port === undefined || where.endsWith(`:${port}`) ? where : `${where}:${port}`
}

/** Checks what `addressOf` of the caller's gave. */
export function checkAddress(address: unknown): string {
  if (typeof address !== 'string') failOption('addressOf', 'must give a string', address)
  return address
}
