import { test } from 'vitest'
import { expectSound } from './support/seeds.js'

const sound = { faultRate: 0, late: false, bus: false, stale: false, sets: true }

test('a process with memory alone reads nothing older than it has written', { timeout: 120_000 }, async () => {
  await expectSound({ ...sound, processes: 0 }, { joined: 100, fenced: 100, l1Survivors: 50 })
})

test('a process with memory alone serves no old value that it has written over, and refreshes none', {
  timeout: 120_000,
}, async () => {
  await expectSound({ ...sound, processes: 0, stale: true }, { fenced: 100 })
})

test('a process with a shared tier reads nothing older than it has written', { timeout: 120_000 }, async () => {
  await expectSound({ ...sound, processes: 1 }, { fenced: 100, superseded: 100, l1Survivors: 50, l2Survivors: 50 })
})

test('a process with a shared tier serves no old value that it has written over, and refreshes none', {
  timeout: 120_000,
}, async () => {
  await expectSound({ ...sound, processes: 1, stale: true }, { fenced: 100 })
})
