/** A promise and the functions that settle it. */
export interface Deferred<T> {
  readonly promise: Promise<T>
  readonly resolve: (value: T | PromiseLike<T>) => void
  readonly reject: (reason: unknown) => void
}

// One executor for all: a closure a promise costs as much as the promise. It runs synchronously, so nothing comes between.
let latestResolve: (value: never) => void
let latestReject: (reason: unknown) => void
const capture = (resolve: (value: never) => void, reject: (reason: unknown) => void): void => {
  latestResolve = resolve
  latestReject = reject
}

/** Gives an object the promise that it settles itself: a deferred without an object of its own. */
export function openPromise<T>(owner: { -readonly [P in keyof Deferred<T>]: Deferred<T>[P] }): void {
  owner.promise = new Promise<T>(capture as never)
  owner.resolve = latestResolve as Deferred<T>['resolve']
  owner.reject = latestReject
}

/** Makes a promise that somebody else settles. */
export function deferred<T>(): Deferred<T> {
  const made: Deferred<T> = { promise: undefined as never, resolve: undefined as never, reject: undefined as never }
  openPromise(made)
  return made
}

const ignore = (): void => {}

/** Marks a promise as looked after, so that its rejection is never an `unhandledRejection`. */
export function handled<T>(promise: Promise<T>): Promise<T> {
  promise.then(undefined, ignore)
  return promise
}

/** What somebody gave away and nobody uses: a promise's rejection is none that nobody handled. Other thenables may only begin by `then`. */
export function leaveAlone(value: unknown): void {
  if (value instanceof Promise) handled(value)
}

/** A rejected promise that may be left alone. */
export function rejected<T = never>(reason: unknown): Promise<T> {
  return handled(Promise.reject<T>(reason))
}
