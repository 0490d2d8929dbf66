import { expect, test } from 'vitest'
import { deferred } from '../../src/internal/deferred.js'
import { attempt, Tasks } from '../../src/internal/tasks.js'
import { watch } from '../batcher/support/outcomes.js'
import { unhandledDuring } from '../batcher/support/process-events.js'

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

test('settled waits for all that runs when it is asked, and for nothing that comes later', async () => {
  const tasks = new Tasks()
  const [first, second, later] = [deferred<void>(), deferred<void>(), deferred<void>()]
  const never = (error: unknown): void => {
    throw error
  }
  tasks.run(() => first.promise, never)
  tasks.run(() => second.promise, never)

  const settled = watch(tasks.settled())
  tasks.run(() => later.promise, never)
  second.resolve()
  await turn()
  expect(settled.status).toBe('pending')
  first.resolve()
  await turn()

  expect(settled.status).toBe('fulfilled')
  await new Tasks().settled()
})

test('work begins at once, and what it fails with goes to its handler, thrown or rejected', async () => {
  const tasks = new Tasks()
  const failures: unknown[] = []
  const onFailure = (error: unknown): void => void failures.push(error)
  let begun = false

  const unhandled = await unhandledDuring(async () => {
    tasks.run(() => {
      begun = true
      throw new Error('thrown')
    }, onFailure)
    expect(begun).toBe(true)
    tasks.run(() => Promise.reject(new Error('rejected')), onFailure)
    await tasks.settled()
  })

  expect(failures).toEqual([new Error('thrown'), new Error('rejected')])
  expect(unhandled).toEqual([])
})

test('attempt makes a promise of whatever comes of a call', async () => {
  expect(await attempt(() => 1)).toBe(1)
  expect(await attempt(() => Promise.resolve(2))).toBe(2)
  await expect(
    attempt(() => {
      throw new Error('thrown')
    }),
  ).rejects.toThrow('thrown')
})
