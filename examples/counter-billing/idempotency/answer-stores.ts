import type { Closable } from 'spillway/process'

/** An answer as it was given. */
export interface StoredAnswer {
  readonly status: number
  readonly body: Readonly<Record<string, unknown>>
}

/** What is known of a key when a request comes with it. */
export type Begun =
  | { readonly state: 'yours'; readonly ageMs: number }
  | { readonly state: 'answered'; readonly answer: StoredAnswer }
  | { readonly state: 'other' }
  | { readonly state: 'underWay'; readonly leftMs: number }

/** Who wants to write under a key, and what. */
export interface Claim {
  /** What is asked: another request has another one. */
  readonly fingerprint: string
  readonly owner: string
  readonly leaseMs: number
}

/** Where answers are kept under keys: one step each, whoever else is at it at the same time. */
export interface AnswerStore extends Closable {
  /** What it is, for people. */
  readonly title: string
  /** Notes a key and who is at it; or tells what is known of it. */
  begin(id: string, claim: Claim): Promise<Begun>
  /** Notes the answer, unless somebody else has taken it up. */
  finish(id: string, owner: string, answer: StoredAnswer): Promise<void>
  /** Lets the next request take it up at once: this one has done nothing for good. */
  release(id: string, owner: string): Promise<void>
}

/** How long a key is remembered, in milliseconds. */
export const keyMemoryMs = 86_400_000

/** When to ask again, in seconds. */
export function untilAnswered({ leftMs }: { readonly leftMs: number }): number {
  // As a rule it is under way no longer than any other write.
  return Math.max(1, Math.min(2, Math.ceil(leftMs / 1_000)))
}

interface MemoryRecord {
  readonly fingerprint: string
  readonly since: number
  owner: string
  leaseUntil: number
  answer?: StoredAnswer
  /** How large the answer is, in characters of JSON. */
  size: number
}

export interface MemoryAnswersOptions {
  readonly maxKeys?: number | undefined
  /** How large all answers may be together, in characters of JSON. */
  readonly maxSize?: number | undefined
}

/** Keys in the memory of one process: the latest hundred thousand of them, or fewer where their answers are large. */
export class MemoryAnswers implements AnswerStore {
  readonly name = 'answers'
  readonly title = 'memory'
  readonly #records = new Map<string, MemoryRecord>()
  readonly #maxKeys: number
  readonly #maxSize: number
  #size = 0

  constructor({ maxKeys = 100_000, maxSize = 64_000_000 }: MemoryAnswersOptions = {}) {
    this.#maxKeys = maxKeys
    this.#maxSize = maxSize
  }

  async begin(id: string, { fingerprint, owner, leaseMs }: Claim): Promise<Begun> {
    const now = Date.now()
    const record = this.#records.get(id)
    if (record === undefined || now - record.since >= keyMemoryMs) {
      this.#forget(id)
      this.#records.set(id, { fingerprint, owner, since: now, leaseUntil: now + leaseMs, size: 0 })
      this.#makeRoom()
      return { state: 'yours', ageMs: 0 }
    }
    if (record.fingerprint !== fingerprint) return { state: 'other' }
    if (record.answer !== undefined) return { state: 'answered', answer: record.answer }
    if (record.leaseUntil > now) return { state: 'underWay', leftMs: record.leaseUntil - now }
    Object.assign(record, { owner, leaseUntil: now + leaseMs })
    return { state: 'yours', ageMs: now - record.since }
  }

  async finish(id: string, owner: string, answer: StoredAnswer): Promise<void> {
    const record = this.#records.get(id)
    if (record?.owner !== owner) return
    record.answer = answer
    record.size = JSON.stringify(answer.body).length
    this.#size += record.size
    this.#makeRoom()
  }

  async release(id: string, owner: string): Promise<void> {
    const record = this.#records.get(id)
    if (record?.owner === owner) record.leaseUntil = 0
  }

  async close(): Promise<void> {}

  /** The oldest go first. */
  #makeRoom(): void {
    for (const id of this.#records.keys()) {
      if (this.#records.size <= this.#maxKeys && this.#size <= this.#maxSize) return
      this.#forget(id)
    }
  }

  #forget(id: string): void {
    this.#size -= this.#records.get(id)?.size ?? 0
    this.#records.delete(id)
  }
}
