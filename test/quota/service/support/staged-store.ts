import {
  type BatchContext,
  type HoldClaim,
  MemoryQuotaStore,
  type QuotaClaim,
  type QuotaKey,
  type QuotaStore,
  type UsageBatch,
} from 'spillway'
import type { FakeClock } from 'spillway/testing'

type Operation = 'write' | 'readUsage' | 'consume' | 'reserve' | 'settle' | 'release'

/** A call that stands still, before or after its work, until the test lets it go on. */
export interface Stage {
  /** Whether the call has come here. */
  readonly reached: boolean
  go(): void
  fail(error: unknown): void
}

interface OpenStage extends Stage {
  readonly operation: Operation
  readonly when: 'before' | 'after'
  readonly passed: Promise<void>
  reached: boolean
}

/** A call as it came. */
export interface StoreCallMade {
  readonly operation: Operation
  readonly argument: unknown
}

/** A store in memory whose calls the test can stop, before they do anything or when they have done it, and fail. */
export class StagedStore implements QuotaStore {
  readonly idempotent: boolean
  readonly dedupe = 'batch'
  readonly calls: StoreCallMade[] = []
  /** The contexts that `write` was called with. */
  readonly contexts: BatchContext[] = []
  readonly inner: MemoryQuotaStore
  readonly #stages: OpenStage[] = []

  constructor(clock: FakeClock, options: { idempotent?: boolean } = {}) {
    this.inner = new MemoryQuotaStore({ clock })
    this.idempotent = options.idempotent ?? true
  }

  /** Stops the next call of an operation that no earlier stage stops there. */
  stage(operation: Operation, when: 'before' | 'after' = 'before'): Stage {
    let go: () => void = () => undefined
    let fail: (error: unknown) => void = () => undefined
    const passed = new Promise<void>((resolve, reject) => {
      go = resolve
      fail = reject
    })
    passed.catch(() => undefined)
    const stage: OpenStage = { operation, when, passed, reached: false, go, fail }
    this.#stages.push(stage)
    return stage
  }

  /** Makes the next calls of an operation fail, one with each error. */
  fails(operation: Operation, ...errors: readonly unknown[]): void {
    for (const error of errors) this.stage(operation).fail(error)
  }

  /** Makes the next call of an operation do its work and lose the answer. */
  losesAnswer(operation: Operation, error: unknown): void {
    this.stage(operation, 'after').fail(error)
  }

  /** How often an operation was called. */
  count(operation: Operation): number {
    return this.calls.filter((call) => call.operation === operation).length
  }

  write(batch: UsageBatch, context: BatchContext) {
    this.contexts.push(context)
    return this.#run('write', batch, () => this.inner.write(batch, context))
  }

  readUsage(keys: readonly QuotaKey[]) {
    return this.#run('readUsage', keys, () => this.inner.readUsage(keys))
  }

  consume(claim: QuotaClaim) {
    return this.#run('consume', claim, () => this.inner.consume(claim))
  }

  reserve(claim: HoldClaim) {
    return this.#run('reserve', claim, () => this.inner.reserve(claim))
  }

  settle(id: string, actual: number) {
    return this.#run('settle', { id, actual }, () => this.inner.settle(id, actual))
  }

  release(id: string) {
    return this.#run('release', id, () => this.inner.release(id))
  }

  async #run<T>(operation: Operation, argument: unknown, work: () => Promise<T>): Promise<T> {
    this.calls.push({ operation, argument })
    await this.#pass(operation, 'before')
    const answer = await work()
    await this.#pass(operation, 'after')
    return answer
  }

  async #pass(operation: Operation, when: 'before' | 'after'): Promise<void> {
    const index = this.#stages.findIndex((stage) => stage.operation === operation && stage.when === when)
    if (index < 0) return
    const [stage] = this.#stages.splice(index, 1)
    if (stage === undefined) return
    stage.reached = true
    await stage.passed
  }
}
