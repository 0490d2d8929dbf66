/** Runs a function in some async context. */
export type ContextRunner = <A extends unknown[], R>(fn: (...args: A) => R, ...args: A) => R

interface AsyncHooks {
  AsyncLocalStorage?: { snapshot?: () => ContextRunner }
}

const direct: ContextRunner = (fn, ...args) => fn(...args)

/**
 * Remembers the async context of now: what a component does for many callers runs in the context in which the component
 * was made, not in that of whichever caller came first. Where the platform has no such contexts, functions just run.
 */
export function captureContext(): ContextRunner {
  const builtin = (globalThis.process as { getBuiltinModule?: (id: string) => unknown } | undefined)?.getBuiltinModule
  const hooks = builtin?.('node:async_hooks') as AsyncHooks | undefined
  return hooks?.AsyncLocalStorage?.snapshot?.() ?? direct
}
