import type { BatchContext } from 'spillway'

/** One call of a {@link Gate}, which answers when the test says so. */
export class GateCall<Item, Result> {
  readonly items: readonly Item[]
  readonly context: BatchContext
  /** When it came. */
  readonly at: number
  /** Settle it by hand. */
  readonly answer: (results: readonly (Result | Error)[]) => void
  readonly fail: (error: unknown) => void
  readonly work: Promise<readonly (Result | Error)[]>

  constructor(items: readonly Item[], context: BatchContext, at: number) {
    this.items = [...items]
    this.context = context
    this.at = at
    let settle: [(results: readonly (Result | Error)[]) => void, (error: unknown) => void] | undefined
    this.work = new Promise((resolve, reject) => {
      settle = [resolve, reject]
    })
    ;[this.answer, this.fail] = settle as NonNullable<typeof settle>
  }
}

/** A batch function that holds every call until the test settles it. */
export class Gate<Item, Result = Item> {
  readonly calls: GateCall<Item, Result>[] = []
  /** The most calls that were open at one time. */
  widest = 0
  readonly #clock: { now(): number }
  #open = 0
  #letting = false

  constructor(clock: { now(): number }) {
    this.#clock = clock
  }

  readonly process = (items: Item[], context: BatchContext): Promise<readonly (Result | Error)[]> => {
    const call = new GateCall<Item, Result>(items, context, this.#clock.now())
    this.calls.push(call)
    this.widest = Math.max(this.widest, ++this.#open)
    const done = (): void => void this.#open--
    call.work.then(done, done)
    if (this.#letting) this.echo(this.calls.length - 1)
    return call.work
  }

  /** The n-th call, counted from 0. */
  call(index: number): GateCall<Item, Result> {
    const call = this.calls[index]
    if (call === undefined) throw new Error(`there is no call ${index}, only ${this.calls.length}`)
    return call
  }

  /** What each call got. */
  get batches(): (readonly Item[])[] {
    return this.calls.map((call) => call.items)
  }

  /** Answers one call with its own items. */
  echo(index: number): void {
    const call = this.call(index)
    call.answer(call.items as readonly unknown[] as readonly Result[])
  }

  /** Answers every call that is still open with its own items, and every later one as it comes. */
  letGo(): void {
    this.#letting = true
    for (let index = 0; index < this.calls.length; index++) this.echo(index)
  }
}
