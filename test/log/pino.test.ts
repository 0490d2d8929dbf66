import { mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pino from 'pino'
import { AsyncLogBuffer } from 'spillway'
import { FileSink } from 'spillway/file'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { HeldSink, linesIn, toldIn } from './support/sinks.js'

let folder: string
let path: string
let files = 0

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'log-pino-'))
})

beforeEach(() => {
  path = join(folder, `${++files}.log`)
})

afterAll(() => rmSync(folder, { recursive: true, force: true }))

const written = (file = path): Record<string, unknown>[] =>
  linesIn(readFileSync(file, 'utf8')).map((line) => JSON.parse(line) as Record<string, unknown>)

const flushed = (logger: pino.Logger): Promise<Error | undefined> => new Promise((resolve) => logger.flush(resolve))

/** The level of a line of pino's. */
const levelOf = (line: string): number => Number(/"level":(\d+)/.exec(line)?.[1])

describe('a logger of pino', () => {
  test('takes the buffer as its destination, alone or behind options', async () => {
    await using sink = new FileSink({ path })
    await using log = new AsyncLogBuffer(sink)

    pino(log).info({ user: 'ann' }, 'first')
    pino({ level: 'warn', base: null }, log).warn('second')
    pino({ level: 'warn' }, log).info('not at this level')
    await log.flush()

    expect(written()).toEqual([
      expect.objectContaining({ level: 30, user: 'ann', msg: 'first' }),
      { level: 40, time: expect.any(Number), msg: 'second' },
    ])
  })

  test('has children that write to the same log in order', async () => {
    await using sink = new FileSink({ path })
    await using log = new AsyncLogBuffer(sink)
    const logger = pino(log)
    const child = logger.child({ request: 'r1' })
    const grandchild = child.child({ step: 2 })

    for (let n = 0; n < 100; n++) [logger, child, grandchild][n % 3]?.info({ n })
    await log.close()

    expect(written().map(({ n }) => n)).toEqual(Array.from({ length: 100 }, (_, n) => n))
    expect(written()[2]).toMatchObject({ request: 'r1', step: 2 })
  })

  test('flushes with a callback, which comes when all is on disk', async () => {
    await using sink = new FileSink({ path })
    await using log = new AsyncLogBuffer(sink)
    const logger = pino(log)
    for (let n = 0; n < 500; n++) logger.info({ n })

    expect(await flushed(logger)).toBeUndefined()

    expect(written()).toHaveLength(500)
  })

  test('hears from the callback of flush that lines failed', async () => {
    await using sink = new FileSink({ path: join(folder, 'no such directory', 'app.log') })
    await using log = new AsyncLogBuffer(sink)
    const logger = pino(log)
    logger.info('lost')

    const error = await flushed(logger)

    expect(error?.message).toMatch(/^async-log-buffer: 1 log line failed: file-sink: opening .* ENOENT/)
  })

  test('writes a fatal line, and all before it, before it returns', async () => {
    await using sink = new FileSink({ path })
    await using log = new AsyncLogBuffer(sink)
    const logger = pino(log)
    logger.info('before')

    logger.fatal('the dam broke')

    expect(written().map(({ msg }) => msg)).toEqual(['before', 'the dam broke'])
  })

  test('keeps the important lines when there is no room, as levelOf reads them', async () => {
    const sink = new HeldSink()
    const log = new AsyncLogBuffer(sink, { capacity: 10, levelOf })
    const logger = pino({ level: 'trace' }, log)
    for (let n = 0; n < 10; n++) logger.debug({ n })
    for (let n = 0; n < 4; n++) logger.error({ n })
    logger.trace('least')
    const closed = log.close()
    await new Promise((resolve) => setImmediate(resolve))
    sink.takeAll()
    await closed

    const levels = sink.lines.map((line) => levelOf(line))
    expect(levels.filter((level) => level === 50)).toHaveLength(4)
    expect(levels.filter((level) => level === 20)).toHaveLength(6)
    expect(levels).not.toContain(10)
    expect(toldIn(sink.lines)).toEqual([5])
  })

  test('redacts before the buffer, which sees and drops text only', async () => {
    const sink = new HeldSink()
    const log = new AsyncLogBuffer(sink, { capacity: 1 })
    const dropped: string[] = []
    log.on('dropped', ({ line }) => dropped.push(line))
    const logger = pino({ redact: ['password'] }, log)

    logger.info({ password: 'hunter2' }, 'kept')
    logger.info({ password: 'hunter2' }, 'dropped')
    const closed = log.close()
    await new Promise((resolve) => setImmediate(resolve))
    sink.takeAll()
    await closed

    expect(sink.text).toContain('[Redacted]')
    expect(`${sink.text}${dropped}`).not.toContain('hunter2')
  })

  test('goes on in a new file after the old one was moved away and SIGHUP came', async () => {
    await using sink = new FileSink({ path })
    await using log = new AsyncLogBuffer(sink)
    const logger = pino(log)
    const reopened: Promise<void>[] = []
    const onHangUp = (): void => void reopened.push(log.reopen())
    process.on('SIGHUP', onHangUp)
    try {
      logger.info('before')
      await flushed(logger)
      renameSync(path, `${path}.moved`)
      process.kill(process.pid, 'SIGHUP')
      while (reopened.length === 0) await new Promise((resolve) => setImmediate(resolve))
      await reopened[0]
      logger.info('after')
      await flushed(logger)
    } finally {
      process.off('SIGHUP', onHangUp)
    }

    expect(written(`${path}.moved`).map(({ msg }) => msg)).toEqual(['before'])
    expect(written().map(({ msg }) => msg)).toEqual(['after'])
  })

  test('may share it with other destinations', async () => {
    await using sink = new FileSink({ path })
    await using log = new AsyncLogBuffer(sink)
    const other: string[] = []
    const logger = pino(
      {},
      pino.multistream([{ stream: log }, { stream: { write: (line: string) => void other.push(line) } }]),
    )

    logger.fatal('to both')

    expect(written().map(({ msg }) => msg)).toEqual(['to both'])
    expect(other).toHaveLength(1)
  })
})
