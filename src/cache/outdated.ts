import { type Deferred, deferred, handled } from '../internal/deferred.js'

/** Keys of one bulk read whose loads brought what was too old for it: it asks for them again, for all of one turn together. */
export class Outdated {
  readonly #ask: (keys: readonly string[]) => readonly unknown[]
  #waiting: { readonly key: string; readonly answer: Deferred<unknown> }[] = []

  constructor(ask: (keys: readonly string[]) => readonly unknown[]) {
    this.#ask = ask
  }

  again(key: string): Promise<unknown> {
    const answer = deferred<unknown>()
    handled(answer.promise)
    if (this.#waiting.push({ key, answer }) === 1) queueMicrotask(() => this.#askAgain())
    return answer.promise
  }

  #askAgain(): void {
    const waiting = this.#waiting
    this.#waiting = []
    const answers = this.#ask(waiting.map(({ key }) => key))
    waiting.forEach(({ answer }, index) => {
      answer.resolve(answers[index])
    })
  }
}
