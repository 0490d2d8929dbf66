/** When something was read, in the order of what its gateway answered. */
export interface ReadMoment {
  /** Which gateway read it. */
  readonly by: string
  /** How many answers that gateway had given when it began to. */
  readonly after: number
}

/** How long an answer is remembered at least: longer than a read takes, and what was read is kept after that. */
const rememberedMs = 15_000
/** How many counters are remembered, two times over. */
const capacity = 50_000

/**
 * Remembers which counters this gateway has told a value of, so that nobody is told an older one by it afterwards. To remember costs a write one
 * look-up; the work is left to the reads, of which there are fewer than writes. Order is all that counts: no clock is compared with
 * another one.
 */
export class Answered {
  /** This gateway. */
  readonly #self: string
  readonly #capacity: number
  readonly #rememberedMs: number
  #answers = 0
  #recent = new Map<string, number>()
  #before = new Map<string, number>()
  #turnedAt = performance.now()
  #answersAtTurn = 0
  /** What was forgotten counts as answered, whatever it was: by then, and until what others had read before it is kept no longer. */
  #forgotten = { answers: 0, untilMs: 0 }

  constructor(self: string, maxCounters = capacity, forMs = rememberedMs) {
    this.#self = self
    this.#capacity = maxCounters
    this.#rememberedMs = forMs
  }

  /** The moment now, for what is about to be read. */
  get moment(): ReadMoment {
    return { by: this.#self, after: this.#answers }
  }

  /** A value was told: what began to be read before this moment may be older. */
  note(name: string): void {
    this.#recent.set(name, ++this.#answers)
    if (this.#recent.size >= this.#capacity) this.#turn(performance.now())
  }

  /** The last answer that must not be followed by an older one; undefined where there is none. */
  last(name: string): number | undefined {
    const now = performance.now()
    if (now - this.#turnedAt > this.#rememberedMs) this.#turn(now)
    const last = this.#recent.get(name) ?? this.#before.get(name)
    if (last !== undefined || now >= this.#forgotten.untilMs) return last
    return this.#forgotten.answers
  }

  /** Whether what was read then is at least as new as the last answer; undefined where that can't be known. */
  isSince(last: number | undefined, { by, after }: ReadMoment): boolean | undefined {
    if (by === this.#self) return after >= (last ?? this.#forgotten.answers)
    return last === undefined ? true : undefined
  }

  /** Names are forgotten all at once, a generation later. */
  #turn(now: number): void {
    if (this.#before.size > 0) {
      this.#forgotten = { answers: this.#answersAtTurn, untilMs: this.#turnedAt + this.#rememberedMs }
    }
    this.#before = this.#recent
    this.#recent = new Map()
    this.#turnedAt = now
    this.#answersAtTurn = this.#answers
  }
}
