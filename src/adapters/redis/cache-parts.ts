import type { SpillwayError } from '../../core/errors.js'
import { handled } from '../../internal/deferred.js'

/** What goes to one bucket in one command. */
export interface CachePart {
  readonly bucket: number
  /** Where in the call its keys are. */
  readonly places: number[]
  /** What has to be answered before it is sent, since a key of it may come there, too. */
  readonly after: CachePart | undefined
}

/** What bounds a part. */
export interface PartLimits {
  readonly keys: number
  readonly bytes: number
}

const noErrors: ReadonlyMap<CachePart, SpillwayError> = new Map()

/**
 * Parts a call by buckets, and those by size.
 *
 * @param sizeOf - how many bytes of the command a key is about.
 * @param ordered - whether parts of one bucket are to be sent one after the other.
 */
export function partsOf(
  count: number,
  bucketAt: (place: number) => number,
  limits: PartLimits,
  sizeOf: (place: number) => number,
  ordered: boolean,
): readonly CachePart[] {
  if (count === 1) return [{ bucket: bucketAt(0), places: [0], after: undefined }]
  const parts: CachePart[] = []
  const open: { part: CachePart; bytes: number }[] = []
  for (let place = 0; place < count; place++) {
    const bucket = bucketAt(place)
    const size = sizeOf(place)
    const current = open[bucket]
    if (current !== undefined && current.part.places.length < limits.keys && current.bytes + size <= limits.bytes) {
      current.part.places.push(place)
      current.bytes += size
      continue
    }
    const part = { bucket, places: [place], after: ordered ? current?.part : undefined }
    open[bucket] = { part, bytes: size }
    parts.push(part)
  }
  return parts
}

/**
 * Runs parts beside each other, as far as they may be.
 *
 * @returns the errors of those that failed, all of them once all have settled.
 */
export function runParts(
  parts: readonly CachePart[],
  run: (part: CachePart) => Promise<void>,
): Promise<ReadonlyMap<CachePart, SpillwayError>> {
  const [only] = parts
  if (only === undefined || parts.length > 1) return runAll(parts, run)
  return run(only).then(
    () => noErrors,
    (error: SpillwayError) => new Map([[only, error]]),
  )
}

async function runAll(
  parts: readonly CachePart[],
  run: (part: CachePart) => Promise<void>,
): Promise<ReadonlyMap<CachePart, SpillwayError>> {
  const errors = new Map<CachePart, SpillwayError>()
  const runs = new Map<CachePart, Promise<void>>()
  for (const part of parts) {
    const before = part.after === undefined ? undefined : runs.get(part.after)
    const running = before === undefined ? run(part) : before.then(() => run(part))
    runs.set(part, handled(running.catch((error: SpillwayError) => void errors.set(part, error))))
  }
  await Promise.all(runs.values())
  return errors
}
