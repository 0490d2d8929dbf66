import { expect, test } from 'vitest'
import { expectSound } from './support/seeds.js'

const sound = { faultRate: 0, late: false, bus: false, stale: false, sets: true }

test('a process with memory alone reads nothing older than it has written', { timeout: 120_000 }, async () => {
  const sum = await expectSound({ ...sound, processes: 0 })

  expect(sum.joined).toBeGreaterThan(100)
  expect(sum.fenced).toBeGreaterThan(100)
  expect(sum.survivors.l1).toBeGreaterThan(50)
})

test('a process with memory alone serves no old value that it has written over, and refreshes none', {
  timeout: 120_000,
}, async () => {
  const sum = await expectSound({ ...sound, processes: 0, stale: true })

  expect(sum.fenced).toBeGreaterThan(100)
})

test('a process with a shared tier reads nothing older than it has written', { timeout: 120_000 }, async () => {
  const sum = await expectSound({ ...sound, processes: 1 })

  expect(sum.fenced).toBeGreaterThan(100)
  expect(sum.superseded).toBeGreaterThan(100)
  expect(sum.survivors.l1).toBeGreaterThan(50)
  expect(sum.survivors.l2).toBeGreaterThan(50)
})

test('a process with a shared tier serves no old value that it has written over, and refreshes none', {
  timeout: 120_000,
}, async () => {
  const sum = await expectSound({ ...sound, processes: 1, stale: true })

  expect(sum.fenced).toBeGreaterThan(100)
})
