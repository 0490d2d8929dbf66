import { test } from 'vitest'
import { expectSound } from './support/seeds.js'

const faulty = { processes: 1, faultRate: 0.15, late: false, bus: false, stale: false, sets: true }

test('a process whose store fails, hangs and loses answers reads nothing older than it has written', {
  timeout: 120_000,
}, async () => {
  await expectSound(faulty, { faults: 500, l1Survivors: 50 })
})

test('a set that lands after it was given up is gone again once everything is quiet', {
  timeout: 120_000,
}, async () => {
  await expectSound({ ...faulty, late: true }, { faults: 500, l1Survivors: 50 })
})

test('processes on a bus whose store fails agree with the database once everything is made up for', {
  timeout: 120_000,
}, async () => {
  await expectSound({ ...faulty, processes: 3, late: true, bus: true, stale: true, sets: false }, { l1Survivors: 50 })
})

test('processes without a bus whose store fails agree with the database in the end', { timeout: 120_000 }, async () => {
  await expectSound({ ...faulty, processes: 2, late: true, sets: false }, { l2Survivors: 50 })
})
