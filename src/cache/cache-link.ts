import type { Clock } from '../core/clock.js'
import { describeError, type Emitter, warn } from '../core/events.js'
import type { Invalidation, InvalidationBus, InvalidationLink, InvalidationListener } from '../core/ports.js'
import { deferred } from '../internal/deferred.js'
import { attempt } from '../internal/tasks.js'
import { clearMark, isWithin, memoryKeyOf, splitFull, tagMark, tagsOf } from './cache-path.js'
import type { Flights } from './flights.js'
import type { MemoryTier } from './memory-tier.js'
import type { MultiLevelCacheEvents } from './multi-level-cache-events.js'
import type { SharedTier } from './shared-tier.js'

/** What a {@link CacheLink} works on. */
export interface CacheLinkParts {
  readonly name: string
  readonly clock: Clock
  readonly timeoutMs: number
  readonly root: string
  readonly bus: InvalidationBus | undefined
  readonly memory: MemoryTier
  readonly flights: Flights
  readonly shared: SharedTier | undefined
  readonly events: Emitter<MultiLevelCacheEvents>
}

/** A cache's end of the bus: tells others what was invalidated here, and does here what others tell. */
export class CacheLink implements InvalidationListener {
  readonly #parts: CacheLinkParts
  #link: InvalidationLink | undefined
  #closed = false
  #warned = false

  constructor(parts: CacheLinkParts) {
    this.#parts = parts
  }

  /** Begins to listen: at the cache's first use, since constructors do no I/O. */
  connect(): void {
    const { bus, name } = this.#parts
    if (bus === undefined || this.#link !== undefined || this.#closed) return
    try {
      this.#link = bus.connect(this)
    } catch (error) {
      if (!this.#warned) warn(`${name} could not connect to its bus: ${describeError(error)}`)
      this.#warned = true
    }
  }

  /** Tells the others; tags and namespaces under the names that they have on the bus. */
  publish(invalidations: readonly Invalidation[]): void {
    if (invalidations.length === 0) return
    try {
      this.#link?.publish(invalidations)
    } catch (error) {
      if (!this.#warned) warn(`the bus of ${this.#parts.name} failed: ${describeError(error)}`)
      this.#warned = true
    }
  }

  /** Others heard of these when they were made, but could still read what was there before they reached the store. */
  tellReplayed(keys: readonly string[], marks: readonly string[]): void {
    const { root } = this.#parts
    const invalidations: Invalidation[] = keys.map((key) => ({ kind: 'key', key }))
    for (const tag of tagsOf(root, marks)) invalidations.push({ kind: 'tag', tag: tagMark(root, tag) })
    const prefix = clearMark(root, '')
    for (const mark of marks) {
      if (mark.startsWith(prefix)) invalidations.push({ kind: 'clear', namespace: mark.slice(prefix.length) })
    }
    this.publish(invalidations)
  }

  onInvalidations(invalidations: readonly Invalidation[]): void {
    if (this.#closed) return
    for (const invalidation of invalidations) {
      if (invalidation.kind === 'key') this.#onKey(invalidation.key, invalidation.version)
      else if (invalidation.kind === 'tag') this.#onTag(invalidation.tag)
      else if (invalidation.kind === 'clear') this.#onClear(invalidation.namespace)
    }
  }

  onGap(): void {
    if (this.#closed) return
    const { memory, flights, shared, events } = this.#parts
    memory.distrust()
    flights.fenceMemory()
    shared?.forget()
    if (events.has('invalidated')) events.emit('invalidated', Object.freeze({ kind: 'gap', source: 'bus' }))
  }

  /** Waits until what was published is sent or lost, for as long as a call of the shared tier may take. */
  async flush(): Promise<void> {
    const link = this.#link
    if (link === undefined) return
    const { clock, timeoutMs } = this.#parts
    const late = deferred<void>()
    const cancel = clock.setTimer(() => late.resolve(), timeoutMs)
    // What can't be sent is lost: the others' ends of the bus say so.
    const sent = attempt(() => link.flush()).catch(() => undefined)
    await Promise.race([sent, late.promise])
    cancel()
  }

  close(): void {
    this.#closed = true
    try {
      this.#link?.close()
    } catch (error) {
      warn(`the bus of ${this.#parts.name} failed: ${describeError(error)}`)
    }
  }

  #onKey(full: string, version: string | undefined): void {
    const { root, memory, flights, events } = this.#parts
    if (typeof full !== 'string') return
    const { path, key } = splitFull(full)
    if (!isWithin(path, root)) return
    const memoryKey = memoryKeyOf(root, path, key)
    flights.fenceKey(memoryKey)
    const there = memory.peek(memoryKey)
    // This process has read it since it was written.
    if (version !== undefined && there?.version === version) return
    memory.delete(memoryKey)
    if (events.has('invalidated')) {
      const keys = Object.freeze([key])
      events.emit('invalidated', Object.freeze({ kind: 'keys', source: 'bus', keys, namespace: path }))
    }
  }

  #onTag(name: string): void {
    const { root, memory, flights, shared, events } = this.#parts
    if (typeof name !== 'string') return
    const [tag] = tagsOf(root, [name])
    if (tag === undefined) return
    shared?.forget([name])
    flights.fenceTags([tag])
    memory.deleteTagged([tag])
    if (events.has('invalidated')) {
      events.emit('invalidated', Object.freeze({ kind: 'tags', source: 'bus', tags: Object.freeze([tag]) }))
    }
  }

  #onClear(namespace: string): void {
    const { root, memory, flights, shared, events } = this.#parts
    if (typeof namespace !== 'string' || !isWithin(namespace, root)) return
    shared?.forget([clearMark(root, namespace)])
    flights.fenceWithin(namespace)
    memory.deleteWithin(namespace)
    if (events.has('invalidated')) {
      events.emit('invalidated', Object.freeze({ kind: 'clear', source: 'bus', namespace }))
    }
  }
}
