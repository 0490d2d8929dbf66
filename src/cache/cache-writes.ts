import { isThenable } from '../core/events.js'
import { checkOptions, failOption } from '../core/options.js'
import type { Invalidation } from '../core/ports.js'
import { handled, leaveAlone } from '../internal/deferred.js'
import type { CacheCore } from './cache-core.js'
import { type CachePath, clearMark } from './cache-path.js'
import { CacheEntry, lifeOf } from './entry.js'
import type { SetEntry } from './multi-level-cache-options.js'
import { checkKey, checkTags, checkTtl, type EntrySettings } from './multi-level-cache-options.js'
import type { WorkOutcome } from './open-work.js'
import type { SharedWrite } from './shared-tier-settings.js'

/** A value to be set, checked, as each tier takes it. */
interface CheckedWrite {
  readonly key: string
  readonly value: unknown
  readonly tags: readonly string[]
  readonly lifeMs: number
  readonly encoded: unknown
}

/**
 * Checks values before anything is changed; of two for one key the last one counts.
 *
 * @throws OptionError when something is wrong, or the shared tier can't carry a value.
 */
export function checkWrites(
  core: CacheCore,
  settings: EntrySettings,
  entries: readonly SetEntry<unknown>[],
): readonly CheckedWrite[] {
  const checked = new Map<string, CheckedWrite>()
  for (const [key, value, options] of entries) {
    checkKey(key)
    if (value === undefined) failOption('value', 'must not be undefined', value)
    if (isThenable(value)) {
      leaveAlone(value)
      failOption('value', 'must not be a promise, but what it resolves to', value)
    }
    checkOptions('options', options)
    const tags = checkTags(options?.tags)
    const ttlMs = options?.ttlMs === undefined ? undefined : checkTtl(options.ttlMs)
    const lifeMs = lifeOf(value, ttlMs, settings, core.random)
    const encoded = core.shared !== undefined && lifeMs > 0 ? core.shared.encode(value) : undefined
    checked.set(key, { key, value, tags, lifeMs, encoded })
  }
  return [...checked.values()]
}

/** Sets values in memory at once, and then in the shared tier; those that would live no time are deleted. */
export function writeValues(
  core: CacheCore,
  at: CachePath,
  settings: EntrySettings,
  writes: readonly CheckedWrite[],
): Promise<void> {
  const now = core.turn.now()
  const kept = writes.filter((write) => write.lifeMs > 0)
  const gone = writes.filter((write) => !(write.lifeMs > 0)).map((write) => write.key)
  const entries = kept.map(({ key, value, tags, lifeMs }) => {
    const memoryKey = at.memory(key)
    core.flights.fenceKey(memoryKey)
    const times = { madeAt: now, freshUntil: now + lifeMs, checkedUntil: now + core.settings.l1TtlMs }
    const what = { value, tags, version: undefined }
    const order = core.flights.nextOrder()
    const entry = new CacheEntry(at.place(key, memoryKey), what, times, settings.refreshAheadRatio, order)
    core.memory.put(entry)
    return entry
  })
  dropKeys(core, at, gone)
  const older = Math.max(settings.staleMs, settings.serveStaleOnErrorMs)
  const shared = kept.map(
    ({ key, tags, lifeMs, encoded }): SharedWrite => ({
      key: at.full(key),
      encoded,
      freshMs: lifeMs,
      keptMs: lifeMs + older,
      marks: [...at.clearMarks, ...tags.map((tag) => at.tagMark(tag))],
    }),
  )
  const done = acknowledged(core, async () => {
    const [versions, tombstones] = await Promise.all([
      core.shared === undefined || shared.length === 0 ? [] : core.shared.write(shared),
      core.shared === undefined || gone.length === 0 ? [] : core.shared.delete(gone.map((key) => at.full(key))),
    ])
    entries.forEach((entry, index) => {
      entry.version = versions[index]
    })
    const told = [...kept.map((write) => write.key), ...gone]
    const known = [...shared.map((_, index) => versions[index]), ...gone.map((_, index) => tombstones[index])]
    core.link.publish(told.map((key, index) => ({ kind: 'key', key: at.full(key), version: known[index] })))
    return outcomeOf(core, known)
  })
  tellDropped(core, at, gone)
  return done
}

/** Deletes keys from memory at once, and then from the shared tier. */
export function deleteKeys(core: CacheCore, at: CachePath, keys: readonly string[]): Promise<void> {
  dropKeys(core, at, keys)
  const full = keys.map((key) => at.full(key))
  const done = acknowledged(core, async () => {
    const versions = core.shared === undefined ? [] : await core.shared.delete(full)
    core.link.publish(full.map((key, index) => ({ kind: 'key', key, version: versions[index] })))
    return outcomeOf(
      core,
      full.map((_, index) => versions[index]),
    )
  })
  tellDropped(core, at, keys)
  return done
}

function dropKeys(core: CacheCore, at: CachePath, keys: readonly string[]): void {
  for (const key of keys) {
    const memoryKey = at.memory(key)
    core.flights.fenceKey(memoryKey)
    core.memory.delete(memoryKey)
  }
}

/**
 * Listeners are told once the shared tier's work has begun: what one of them reads at once then comes after it. Before, it would read
 * what is still there.
 */
function tellDropped(core: CacheCore, at: CachePath, keys: readonly string[]): void {
  if (keys.length === 0 || !core.events.has('invalidated')) return
  const told = { kind: 'keys', source: 'local', keys: Object.freeze([...keys]), namespace: at.path } as const
  core.events.emit('invalidated', Object.freeze(told))
}

/** Makes invalid, in both tiers and all namespaces, whatever bears one of the tags. */
export function invalidateTags(core: CacheCore, at: CachePath, tags: readonly string[]): Promise<void> {
  core.flights.fenceTags(tags)
  core.memory.deleteTagged(tags)
  const marks = tags.map((tag) => at.tagMark(tag))
  const done = renewed(
    core,
    marks,
    marks.map((tag) => ({ kind: 'tag', tag })),
  )
  if (core.events.has('invalidated')) {
    const told = { kind: 'tags', source: 'local', tags: Object.freeze([...tags]) } as const
    core.events.emit('invalidated', Object.freeze(told))
  }
  return done
}

/** Makes invalid, in both tiers, whatever is in a namespace. */
export function clearPath(core: CacheCore, at: CachePath): Promise<void> {
  const { path, root } = at
  core.flights.fenceWithin(path)
  if (path === root) core.memory.clear()
  else core.memory.deleteWithin(path)
  const done = renewed(core, [clearMark(root, path)], [{ kind: 'clear', namespace: path }])
  if (core.events.has('invalidated')) {
    core.events.emit('invalidated', Object.freeze({ kind: 'clear', source: 'local', namespace: path } as const))
  }
  return done
}

function renewed(core: CacheCore, marks: readonly string[], told: readonly Invalidation[]): Promise<void> {
  return acknowledged(core, async () => {
    await core.shared?.renew(marks)
    core.link.publish(told)
    return { succeeded: marks.length, failed: 0 }
  })
}

/** Those that the shared tier has no version of failed there, and are made up for later. */
function outcomeOf(core: CacheCore, versions: readonly (string | undefined)[]): WorkOutcome {
  const failed = core.shared === undefined ? 0 : versions.filter((version) => version === undefined).length
  return { succeeded: versions.length - failed, failed }
}

/** Work of the shared tier that its caller waits for, until `close` gives it up. */
function acknowledged(core: CacheCore, work: () => Promise<WorkOutcome>): Promise<void> {
  let giveUp: (error: unknown) => void = () => undefined
  let open = true
  const done = new Promise<void>((resolve, reject) => {
    giveUp = reject
    const abandon = (error: unknown): number => {
      if (!open) return 0
      giveUp(error)
      return 1
    }
    const running = work().finally(() => {
      open = false
    })
    core.work.track(running, { abandon }).then(resolve, reject)
  })
  return handled(done)
}
