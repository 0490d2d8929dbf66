import { type Deferred, deferred } from '../internal/deferred.js'

/** What lanes need to know about an operation. */
export interface LaneOperation {
  readonly key: string
}

/** An operation, and all that wait for it. */
interface Turn<O, R> {
  operation: O
  started: boolean
  readonly outcome: Deferred<R>
}

interface Lane<O, R> {
  running: Turn<O, R>
  /** What comes next: the latest of all that came while something ran. */
  waiting: Turn<O, R> | undefined
}

/**
 * Lets the operations on one key go out one after the other, and those on different keys together. Of those that wait for the same key
 * only the last one is made: it stands for the others, which have its outcome.
 */
export class StoreLanes<O extends LaneOperation, R> {
  readonly #run: (operations: readonly O[]) => Promise<readonly R[]>
  readonly #lanes = new Map<string, Lane<O, R>>()
  /** What begins at the end of this run of synchronous code. */
  #gathered: Turn<O, R>[] | undefined

  /** @param run - makes operations on different keys, and says what became of each. It never rejects. */
  constructor(run: (operations: readonly O[]) => Promise<readonly R[]>) {
    this.#run = run
  }

  /** Whether anything is under way for a key. */
  has(key: string): boolean {
    return this.#lanes.has(key)
  }

  /** Resolves once all that is under way for a key now has ended; undefined where nothing is. */
  ended(key: string): Promise<unknown> | undefined {
    const lane = this.#lanes.get(key)
    return (lane?.waiting ?? lane?.running)?.outcome.promise
  }

  /** Resolves once all that is under way now has ended. */
  async settled(): Promise<void> {
    await Promise.all(Array.from(this.#lanes.keys(), (key) => this.ended(key)))
  }

  /** Makes operations as soon as their keys are free. What callers ask for one after the other, in one go, begins together. */
  submit(operations: readonly O[]): Promise<R[]> {
    const due: Turn<O, R>[] = []
    const outcomes = operations.map((operation) => this.#enter(operation, due))
    if (due.length > 0) this.#gather(due)
    return Promise.all(outcomes)
  }

  #gather(due: readonly Turn<O, R>[]): void {
    if (this.#gathered !== undefined) {
      this.#gathered.push(...due)
      return
    }
    this.#gathered = [...due]
    void Promise.resolve().then(() => {
      const gathered = this.#gathered ?? []
      this.#gathered = undefined
      this.#start(gathered)
    })
  }

  #enter(operation: O, due: Turn<O, R>[]): Promise<R> {
    const lane = this.#lanes.get(operation.key)
    const joined = lane?.running.started === false ? lane.running : lane?.waiting
    if (joined !== undefined) {
      joined.operation = operation
      return joined.outcome.promise
    }
    const turn: Turn<O, R> = { operation, started: false, outcome: deferred<R>() }
    if (lane === undefined) {
      this.#lanes.set(operation.key, { running: turn, waiting: undefined })
      due.push(turn)
    } else {
      lane.waiting = turn
    }
    return turn.outcome.promise
  }

  #start(turns: readonly Turn<O, R>[]): void {
    for (const turn of turns) turn.started = true
    void this.#run(turns.map(({ operation }) => operation)).then((outcomes) => {
      const due = turns.flatMap(({ operation }) => this.#advance(operation.key) ?? [])
      if (due.length > 0) this.#start(due)
      for (const [i, { outcome }] of turns.entries()) outcome.resolve(outcomes[i] as R)
    })
  }

  /** Ends what runs in a lane; what comes next takes its place. */
  #advance(key: string): Turn<O, R> | undefined {
    const lane = this.#lanes.get(key)
    if (lane?.waiting === undefined) {
      this.#lanes.delete(key)
      return undefined
    }
    lane.running = lane.waiting
    lane.waiting = undefined
    return lane.running
  }
}
