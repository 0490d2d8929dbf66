import { afterEach, beforeEach, expect } from 'vitest'

const tasks: (() => unknown)[] = []

/** Registers what must be undone after the test, last first. */
export function cleanUp(task: () => unknown): void {
  tasks.push(task)
}

/** Undoes what the tests of a file registered, and holds that none left an unhandled rejection. */
export function tidyUp(): void {
  const unhandled: unknown[] = []
  const note = (reason: unknown): void => void unhandled.push(reason)
  beforeEach(() => {
    unhandled.length = 0
    process.on('unhandledRejection', note)
  })
  afterEach(async () => {
    for (const task of tasks.splice(0).reverse()) await task()
    await new Promise((resolve) => setImmediate(resolve))
    process.off('unhandledRejection', note)
    expect(unhandled).toEqual([])
  })
}
