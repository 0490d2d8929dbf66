import { BatchResultError } from '../core/errors.js'
import { isThenable } from '../core/events.js'
import { checkFunction, failOption } from '../core/options.js'
import { leaveAlone } from '../internal/deferred.js'
import type { LazySignal } from '../internal/lazy-signal.js'
import { encodeKey } from './cache-key.js'
import type { BatchLoader, Loader } from './cache-operations.js'
import type { KeyLoad } from './flights.js'
import { ManyLoadContext, SingleLoadContext } from './load-context.js'
import type { Loaded, RunLoader } from './load-run.js'
import type { WrapOptions } from './multi-level-cache-options.js'

/** A run's loader of one key. */
export function oneByOne(loader: Loader<unknown>): RunLoader {
  return async (loads, signal, now) => {
    const [load] = loads as [KeyLoad]
    return [{ value: await loader(load.key, new SingleLoadContext(load, signal, now)) }]
  }
}

/** A run's loader of all its keys. */
export function inOneBatch(load: BatchLoader<unknown>, name: string): RunLoader {
  return async (loads, signal: LazySignal, now) => {
    const keys = loads.map((one) => one.key)
    const results: unknown = await load(keys, new ManyLoadContext(loads, signal, now))
    if (!Array.isArray(results) || results.length !== loads.length) {
      const got = Array.isArray(results) ? `${results.length} results` : typeof results
      throw new BatchResultError(
        `a loader of ${name} must answer ${loads.length} keys with an array as long, got ${got}`,
      )
    }
    if (results.some(isThenable)) {
      results.forEach(leaveAlone)
      throw new BatchResultError(
        `a loader of ${name} must answer with values, got promises: await them with Promise.all`,
      )
    }
    // By index, since an array's holes are results too.
    return loads.map((_, index): Loaded => {
      const result: unknown = results[index]
      return result instanceof Error ? { error: result } : { value: result }
    })
  }
}

/**
 * What makes the keys of a wrapped function.
 *
 * @throws OptionError when an option is wrong.
 */
export function wrapKey<A extends unknown[]>(options: WrapOptions<A>): (args: A) => string {
  const { name, key } = options
  if (typeof name !== 'string' || name === '' || /[:(]/.test(name)) {
    failOption('name', "must be a non-empty string without ':' and '('", name)
  }
  if (key === undefined) return (args) => name + encodeKey(args)
  checkFunction('key', key)
  return (args) => {
    const rest: unknown = key(...args)
    if (typeof rest !== 'string') failOption('key', 'must return a string', rest)
    return `${name}:${rest}`
  }
}
