import { expect, test } from 'vitest'
import { expectSound } from './support/seeds.js'

const sound = { processes: 3, faultRate: 0, late: false, bus: true, stale: false, sets: false }

test('processes on a bus agree with the database once everything is quiet', { timeout: 120_000 }, async () => {
  const sum = await expectSound(sound)

  expect(sum.gaps).toBeGreaterThan(150)
  expect(sum.superseded).toBeGreaterThan(100)
  expect(sum.survivors.l1).toBeGreaterThan(50)
  expect(sum.survivors.l2).toBeGreaterThan(50)
})

test('processes on a bus that set values, each its own, agree too', { timeout: 120_000 }, async () => {
  const sum = await expectSound({ ...sound, processes: 2, sets: true, stale: true })

  expect(sum.survivors.l1).toBeGreaterThan(50)
  expect(sum.survivors.l2).toBeGreaterThan(50)
})

test('processes without a bus serve what others have replaced no longer than memory is believed', {
  timeout: 120_000,
}, async () => {
  const sum = await expectSound({ ...sound, bus: false })

  expect(sum.superseded).toBeGreaterThan(100)
  expect(sum.survivors.l2).toBeGreaterThan(50)
})
