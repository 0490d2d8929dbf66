import type {
  SharedFill,
  SharedFillOutcome,
  SharedRead,
  SharedTierSettings,
  SharedTierStats,
  SharedWrite,
} from './shared-tier-settings.js'

/**
 * A cache's way to the store that it shares with others. Nothing here rejects: what the store fails at is counted, told, and made up
 * for later.
 */
export declare class SharedTier {
  constructor(settings: SharedTierSettings)

  /**
   * A moment: `clock.now()`, except that no two are the same. Taken before a load's read begins, it says what came before the load and
   * what after.
   */
  moment(): number

  /**
   * Turns a value into what the store takes.
   *
   * @throws OptionError - where the store can't carry it.
   */
  encode(value: unknown): unknown

  /**
   * Reads keys, in their order. Never rejects.
   *
   * @param marks - names of marks that every one of these keys depends on: read at the same time, where they aren't known.
   */
  read(keys: readonly string[], marks: readonly string[]): Promise<readonly SharedRead[]>

  /** Writes keys; answers with their versions, undefined where it failed and the key waits to be deleted. Never rejects. */
  write(writes: readonly SharedWrite[]): Promise<readonly (string | undefined)[]>

  /**
   * Writes what was loaded, where nobody wrote, deleted or invalidated since. Never rejects.
   *
   * @param since - the moment before the read that brought the versions.
   */
  fill(fills: readonly SharedFill[], since: number): Promise<readonly SharedFillOutcome[]>

  /** Deletes keys; answers with the tombstones' versions, undefined where it failed and is made again. Never rejects. */
  delete(keys: readonly string[]): Promise<readonly (string | undefined)[]>

  /** Renews marks, so that whatever depends on them is invalid from the call on. Never rejects; what failed is made again. */
  renew(marks: readonly string[]): Promise<void>

  /** Forgets what it knows about marks that somebody else has renewed, or, without names, about all marks. */
  forget(marks?: readonly string[]): void

  /** Resolves once all writes under way are settled and one attempt was made at what waits for its replay. */
  settled(): Promise<void>

  /** Stops its timers; nothing is replayed any more. */
  close(): void

  /** How many deletes and renewals wait for their replay. */
  abandoned(): number

  stats(): SharedTierStats
}
