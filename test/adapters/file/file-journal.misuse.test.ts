import { readdirSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { type AcceptedUsage, OptionError } from 'spillway'
import { FileJournal } from 'spillway/file'
import { afterAll, beforeEach, describe, expect, test } from 'vitest'
import { Directories } from './support/directories.js'
import { openJournal, readAgain, use } from './support/usage.js'

const directories = new Directories()
afterAll(() => directories[Symbol.asyncDispose]())

let directory: string
beforeEach(async () => {
  directory = await directories.make()
})

describe('FileJournal refuses', () => {
  test.each([
    ['segmentBytes', 4095, 'segmentBytes must be a whole number between 4096 and 268435456, got 4095 (number)'],
    ['segmentBytes', '1e6', 'segmentBytes must be a whole number between 4096 and 268435456, got "1e6" (string)'],
    ['segmentBytes', null, 'segmentBytes must be a whole number between 4096 and 268435456, got null (null)'],
    ['sync', 1, 'sync must be true or false, got 1 (number)'],
    ['damage', 'ignore', "damage must be one of 'fail', 'skip', got \"ignore\" (string)"],
    ['name', 7, 'name must be a string, got 7 (number)'],
    ['clock', {}, /^clock must have a method now/],
  ])('%s: %j', (field, value, message) => {
    expect(() => new FileJournal(directory, { [field]: value })).toThrow(message)
    expect(() => new FileJournal(directory, { [field]: value })).toThrow(OptionError)
  })

  test.each([undefined, null, '', 7, 'a\0b', {}])('the directory %j', (path) => {
    expect(() => new FileJournal(path as string)).toThrow(/^directory must be a path, got/)
  })

  test('options that are none', () => {
    expect(() => new FileJournal(directory, null as never)).toThrow('options must be an object, got null (null)')
  })
})

test('an explicit undefined is the default, a relative directory is of the working directory of then', () => {
  const journal = new FileJournal('some/where', { segmentBytes: undefined, sync: undefined, damage: undefined })
  expect(journal.directory).toBe(resolve('some/where'))
  expect(FileJournal.defaults).toEqual({ segmentBytes: 16_777_216, sync: true, damage: 'fail' })
})

test('the constructor touches nothing', () => {
  new FileJournal(join(directory, 'journal'))
  expect(readdirSync(directory)).toEqual([])
})

describe('a wrong call is refused by a rejection, and hurts no other one', () => {
  test.each([
    ['nothing', undefined, 'event must be an object'],
    ['a negative value', use(-1), 'value must be a number between 0'],
    ['no number', use(Number.NaN), 'value must be a number between 0'],
    ['no user', use(1, { userId: '' }), 'userId must be'],
    ['a long type', use(1, { quotaType: 'x'.repeat(257) }), 'quotaType must be a text of 1 to 256 characters'],
    ['a Date', use(1, { timestamp: new Date() as never }), 'timestamp must be a number'],
    ['no time', use(1, { timestamp: undefined as never }), 'timestamp must be a number'],
    ['no period', use(1, { period: undefined as never }), 'period must be a string'],
    ['a megabyte', use(1, { metadata: { text: 'x'.repeat(1024 * 1024) } }), 'metadata makes an event of 10'],
  ] as [string, AcceptedUsage, string][])('append of an event with %s', async (_, event, message) => {
    const { journal } = await openJournal(directory)
    const [wrong, right] = await Promise.allSettled([journal.append(event), journal.append(use(2))])

    expect(wrong).toMatchObject({ status: 'rejected', reason: { code: 'ERR_INVALID_EVENT' } })
    expect((wrong as PromiseRejectedResult).reason.message).toContain(message)
    expect(right.status).toBe('fulfilled')
    await journal.close()
    expect(await readAgain(directory)).toEqual({ batches: {}, events: [2] })
  })

  test('of assign, settle and deadLetter', async () => {
    const { journal } = await openJournal(directory)
    const position = await journal.append(use(1))
    const calls: [() => Promise<unknown>, string][] = [
      [() => journal.assign('', [position]), 'batchId must be a text'],
      [() => journal.assign(7 as never, [position]), 'batchId must be a text'],
      [() => journal.assign('batch', 1 as never), 'positions must be an array'],
      [() => journal.assign('batch', ['1'] as never), 'there is no unsettled event at position "1" (string)'],
      [() => journal.assign('batch', [position, 99]), 'there is no unsettled event at position 99 (number)'],
      [() => journal.settle(undefined as never), 'batchId must be a text'],
      [() => journal.settle('x'.repeat(1025)), 'batchId must be a text of at most 1024 characters'],
      [() => journal.deadLetter(undefined as never), 'batchId must be a text'],
      [() => journal.deadLetter({ batchId: 'b', events: [], error: 0 }), 'events must be an array with events'],
      [() => journal.deadLetter({ batchId: 'b', events: [use(-1)], error: 0 }), 'value must be a number'],
    ]
    for (const [call, message] of calls) await expect(call()).rejects.toThrow(message)
    expect(journal.stats()).toMatchObject({ pending: 1, assigned: 0, deadLettered: 0 })
    await journal.close()
    expect(await readAgain(directory)).toEqual({ batches: {}, events: [1] })
  })

  test('whatever an error of a dead letter is, it becomes one line', async () => {
    const { journal } = await openJournal(directory)
    const cycle = new Error('cycle')
    cycle.cause = cycle
    for (const error of [undefined, null, 'text\nof two lines', { toString: null }, Object.create(null), cycle, 7n]) {
      await journal.deadLetter({ batchId: 'batch', events: [use(1)], error })
    }
    let letters = 0
    for await (const { error } of journal.deadLetters()) letters += typeof error === 'string' ? 1 : 0
    expect(letters).toBe(7)
    await journal.close()
  })
})

test('a listener that throws changes nothing', async () => {
  const { journal } = await openJournal(directory)
  const warned = new Promise((done) => process.once('warning', done))
  journal.on('committed', () => {
    throw new Error('of a listener')
  })
  await journal.append(use(1))
  await journal.close()
  expect(String(await warned)).toContain('of a listener')
  expect(await readAgain(directory)).toEqual({ batches: {}, events: [1] })
})
