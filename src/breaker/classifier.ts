import { describeError, isThenable, warn } from '../core/events.js'
import { checkOptionalFunction } from '../core/options.js'
import type { Outcome } from './breaker-machine.js'

/** What the options say of how outcomes are judged. */
export interface ClassifierOptions {
  classifyError?: ((error: unknown) => Outcome) | undefined
  classifyResult?: ((result: unknown) => Outcome) | undefined
}

/** Judges outcomes. A classifier of the caller's that fails is reported once, and the default applies. */
export class Classifier {
  readonly #name: string
  readonly #classifyError: ((error: unknown) => Outcome) | undefined
  readonly #classifyResult: ((result: unknown) => Outcome) | undefined
  #reported = false

  /** @throws OptionError when one of them is no function. */
  constructor(name: string, options: ClassifierOptions) {
    this.#name = name
    this.#classifyError = checkOptionalFunction('classifyError', options.classifyError)
    this.#classifyResult = checkOptionalFunction('classifyResult', options.classifyResult)
  }

  outcomeOfError(error: unknown): Outcome {
    return this.#classifyError === undefined ? 'failure' : this.#ask(this.#classifyError, error, 'failure')
  }

  outcomeOfResult(result: unknown): Outcome {
    return this.#classifyResult === undefined ? 'success' : this.#ask(this.#classifyResult, result, 'success')
  }

  #ask(classify: (value: unknown) => Outcome, value: unknown, fallback: Outcome): Outcome {
    let problem: string
    try {
      const outcome: unknown = classify(value)
      if (outcome === 'success' || outcome === 'failure' || outcome === 'ignore') return outcome
      if (isThenable(outcome)) outcome.then(undefined, () => undefined)
      problem = `answered ${String(outcome)}`
    } catch (error) {
      problem = `failed: ${describeError(error)}`
    }
    if (!this.#reported) {
      this.#reported = true
      warn(`a classifier of ${this.#name} ${problem}; it counts as '${fallback}'`)
    }
    return fallback
  }
}
