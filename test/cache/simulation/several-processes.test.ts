import { test } from 'vitest'
import { expectSound } from './support/seeds.js'

const sound = { processes: 3, faultRate: 0, late: false, bus: true, stale: false, sets: false }

test('processes on a bus agree with the database once everything is quiet', { timeout: 120_000 }, async () => {
  await expectSound(sound, { gaps: 150, superseded: 100, l1Survivors: 50, l2Survivors: 50 })
})

test('processes on a bus that set values, each its own, agree too', { timeout: 120_000 }, async () => {
  await expectSound({ ...sound, processes: 2, sets: true, stale: true }, { l1Survivors: 50, l2Survivors: 50 })
})

test('processes without a bus serve what others have replaced no longer than memory is believed', {
  timeout: 120_000,
}, async () => {
  await expectSound({ ...sound, bus: false }, { superseded: 100, l2Survivors: 50 })
})
