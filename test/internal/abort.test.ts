import { getEventListeners } from 'node:events'
import { expect, test } from 'vitest'
import { onAbort } from '../../src/internal/abort.js'

test('the listener is called once, when the signal aborts', () => {
  const controller = new AbortController()
  let calls = 0
  onAbort(controller.signal, () => {
    calls++
  })

  const before = calls
  controller.abort()
  controller.abort()

  expect([before, calls]).toEqual([0, 1])
  expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
})

test('what it returns takes the listener off, and only this one', () => {
  const controller = new AbortController()
  const heard: string[] = []
  const off = onAbort(controller.signal, () => heard.push('first'))
  onAbort(controller.signal, () => heard.push('second'))

  off()
  off()
  expect(getEventListeners(controller.signal, 'abort')).toHaveLength(1)
  controller.abort()

  expect(heard).toEqual(['second'])
})
