import { execFileSync } from 'node:child_process'
import { constants, createWriteStream, mkdtempSync, openSync, rmSync, write as writeFile } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pino from 'pino'
import SonicBoom5 from 'sonic-boom'
import SonicBoom4 from 'sonic-boom4'
import { AsyncLogBuffer, type AsyncLogBufferOptions } from 'spillway'
import { FileSink } from 'spillway/file'
import winston from 'winston'
import type { Aim, Contender, Contest } from './harness/contest.ts'
import { type LogFile, removeLogFiles } from './harness/log-file.ts'
import { type LogWork, type LogWriter, logTurns } from './harness/log-turns.ts'
import { serveSuite } from './harness/suite-process.ts'

// Lines of 120 bytes on their way into a file: what their callers wait for, and how long it takes until the file has all of them.
// That is seen from outside, and the file is compared byte for byte after every turn; nobody syncs. Then the same with pino in front,
// and what a line costs that is dropped since nothing can be written.

const lineBytes = 120
const lines = Array.from({ length: 1000 }, (_, i) => {
  const head = `{"level":30,"time":${1_790_000_000_000 + i},"id":${i},"msg":"`
  const tail = '"}\n'
  const text = 'a request was answered, and all is well '.repeat(3).slice(0, lineBytes - head.length - tail.length)
  // Flat, and not yet to be put together from its parts.
  return Buffer.from(head + text + tail).toString()
})

/** A burst of lines in each of 20 turns, one burst alone, and a line in each of 1000 turns. */
const bursts = { linesAtOnce: 1000, times: 20 }
const burst = { linesAtOnce: 1000, times: 1 }
const singles = { linesAtOnce: 1, times: 1000 }

/** Aims beside sonic-boom 4.2.0 and 5, for the caller's part and for all of it. */
interface Aims {
  readonly four?: Aim
  readonly five?: Aim
}

type Make = (file: LogFile) => LogWriter | Promise<LogWriter>

const named = (name: string, aim: Aim | undefined, work: LogWork, make: Make): Contender => ({
  name,
  ...(aim && { aim }),
  prepare: () => logTurns(lines, work, make),
})

// --- straight into each

/** Room for all lines of a turn, so that none is dropped. */
const ample: AsyncLogBufferOptions = { capacity: 1_000_000 }

const expectNoLoss = (log: AsyncLogBuffer): void => {
  const { dropped, rejected, failed } = log.stats()
  if (dropped + rejected + failed > 0) throw new Error(`wrong answer: ${dropped + rejected + failed} lines were lost`)
}

const closeAll = async (log: AsyncLogBuffer, sink: FileSink): Promise<void> => {
  await log.close()
  await sink.close()
}

const spillway =
  (options: AsyncLogBufferOptions = ample): Make =>
  ({ path }) => {
    const sink = new FileSink({ path })
    const log = new AsyncLogBuffer(sink, options)
    return {
      write: (from, to) => {
        for (let i = from; i < to; i++) log.write(lines[i] as string)
      },
      ...(options.eager === false && { last: () => void log.flush() }),
      check: () => expectNoLoss(log),
      close: () => closeAll(log, sink),
    }
  }

/** Holds lines for up to 10 ms instead of writing as soon as nothing is in flight: fewer writes where lines come one by one. */
const patient: AsyncLogBufferOptions = { ...ample, eager: false, maxWaitMs: 10 }

const opened = async <T extends { once(event: string, listener: () => void): unknown }>(stream: T): Promise<T> => {
  await new Promise<void>((resolve) => stream.once('ready', resolve))
  return stream
}

/** Behind the last line, its flush without a callback: one with a callback would sync, too. */
const sonic4 =
  (minLength: number): Make =>
  async ({ path }) => {
    const log = await opened(new SonicBoom4({ dest: path, sync: false, minLength }))
    return {
      write: (from, to) => {
        for (let i = from; i < to; i++) log.write(lines[i] as string)
      },
      ...(minLength > 0 && { last: () => flushWhenIdle(log) }),
    }
  }

const sonic5 =
  (minLength: number): Make =>
  async ({ path }) => {
    const log = await opened(new SonicBoom5({ dest: path, sync: false, minLength }))
    return {
      write: (from, to) => {
        for (let i = from; i < to; i++) log.write(lines[i] as string)
      },
      ...(minLength > 0 && { last: () => flushWhenIdle(log) }),
    }
  }

/** What is less than `minLength` stays until it is asked for, once the write before is done. */
function flushWhenIdle(log: SonicBoom4 | SonicBoom5): void {
  log.once('drain', () => log.flush())
  log.flush()
}

const pinoDestination =
  (sync: boolean): Make =>
  async ({ path }) => {
    const log = pino.destination({ dest: path, sync })
    if (!sync) await opened(log)
    return {
      write: (from, to) => {
        for (let i = from; i < to; i++) log.write(lines[i] as string)
      },
    }
  }

/** What winston reads of an entry: its text, without the newline that the transport adds, and its level. */
const messageKey = Symbol.for('message')
const levelKey = Symbol.for('level')

/** No logger and no format: an object of each line, the transport's own object stream, a pass-through, and the file's stream. */
const winstonFile: Make = ({ path }) => {
  const log = new winston.transports.File({ filename: path })
  // Every line that waits is a listener, and node would warn.
  ;(Reflect.get(log, '_stream') as NodeJS.WritableStream).setMaxListeners(0)
  const texts = lines.map((line) => line.slice(0, -1))
  return {
    write: (from, to) => {
      for (let i = from; i < to; i++) {
        log.write({ level: 'info', message: '', [levelKey]: 'info', [messageKey]: texts[i] as string })
      }
    },
  }
}

const writeStream: Make = ({ path }) => {
  const log = createWriteStream(path, { flags: 'a' })
  return {
    write: (from, to) => {
      for (let i = from; i < to; i++) log.write(lines[i] as string)
    },
  }
}

/** What one writes oneself at first: no bound on what waits, short writes not completed, errors thrown away, no flush, no stats. */
class HandJoin {
  readonly #fd: number
  #waiting: string[] = []
  #busy = false

  constructor(path: string) {
    this.#fd = openSync(path, 'a')
  }

  write(line: string): void {
    this.#waiting.push(line)
    if (this.#busy) return
    this.#busy = true
    setImmediate(this.#next)
  }

  readonly #next = (): void => {
    const text = this.#waiting.join('')
    this.#waiting = []
    this.#busy = text !== ''
    if (this.#busy) writeFile(this.#fd, text, this.#next)
  }
}

const byHand: Make = ({ path }) => {
  const log = new HandJoin(path)
  return {
    write: (from, to) => {
      for (let i = from; i < to; i++) log.write(lines[i] as string)
    },
  }
}

/** Other options of ours that make a difference to how the lines come; without aims. */
const variants = (work: LogWork): Contender[] => {
  if (work.linesAtOnce === 1) {
    return [named('spillway, eager: false, maxWaitMs: 10', undefined, work, spillway(patient))]
  }
  if (work.times === 1 || work.until === 'write') return []
  return [120_000, 262_144].map((maxBatchBytes) =>
    named(`spillway, maxBatchBytes: ${maxBatchBytes}`, undefined, work, spillway({ ...ample, maxBatchBytes })),
  )
}

const straight = (name: string, pattern: Omit<LogWork, 'until'>, until: LogWork['until'], aims: Aims): Contest => {
  const work: LogWork = { ...pattern, until }
  const many = work.linesAtOnce * work.times > 1000
  return {
    name,
    operation: 'line',
    operations: work.linesAtOnce * work.times,
    contenders: [
      named('spillway', undefined, work, spillway()),
      ...variants(work),
      named('sonic-boom 4.2.0', aims.four, work, sonic4(0)),
      named('sonic-boom 4.2.0, minLength 4096', aims.four, work, sonic4(4096)),
      named('sonic-boom 5', aims.five, work, sonic5(0)),
      named('sonic-boom 5, minLength 4096', aims.five, work, sonic5(4096)),
      named('pino.destination, sync: false', undefined, work, pinoDestination(false)),
      named('pino.destination, as it is by default', undefined, work, pinoDestination(true)),
      // Its time grows with the square of what waits: 20 bursts would take half a minute.
      ...(many ? [] : [named('winston, File transport', undefined, work, winstonFile)]),
      named('fs.createWriteStream', undefined, work, writeStream),
      named('lines joined by hand, fs.write', undefined, work, byHand),
    ],
    finish: removeLogFiles,
  }
}

// --- with pino in front

const pinoOptions: pino.LoggerOptions = { timestamp: () => ',"time":1790000000000' }
const message = 'a request was answered, and all is well'

/** What pino makes of the calls. */
const pinoLines: string[] = []
{
  const logger = pino(pinoOptions, { write: (line) => void pinoLines.push(line) })
  for (let i = 0; i < 1000; i++) logger.info({ id: i }, message)
}

/** A logger in front of a destination, each with a loop of its own. */
const logging = (name: string, aim: Aim | undefined, work: LogWork, make: Make): Contender => ({
  name,
  ...(aim && { aim }),
  prepare: () => logTurns(pinoLines, work, make),
})

const logs =
  (logger: pino.Logger): LogWriter['write'] =>
  (from, to) => {
    for (let i = from; i < to; i++) logger.info({ id: i }, message)
  }

const behindPino = (name: string, until: LogWork['until'], aims: Aims): Contest => {
  const work: LogWork = { ...bursts, until }
  return {
    name,
    operation: 'line',
    operations: work.linesAtOnce * work.times,
    contenders: [
      logging('spillway', undefined, work, ({ path }) => {
        const sink = new FileSink({ path })
        const log = new AsyncLogBuffer(sink, ample)
        return {
          write: logs(pino(pinoOptions, log)),
          check: () => expectNoLoss(log),
          close: () => closeAll(log, sink),
        }
      }),
      logging('sonic-boom 4.2.0', aims.four, work, async ({ path }) => ({
        write: logs(pino(pinoOptions, await opened(new SonicBoom4({ dest: path, sync: false })))),
      })),
      logging('sonic-boom 5', aims.five, work, async ({ path }) => ({
        write: logs(pino(pinoOptions, await opened(new SonicBoom5({ dest: path, sync: false })))),
      })),
      logging('pino.destination, sync: false', aims.five, work, async ({ path }) => ({
        write: logs(pino(pinoOptions, await opened(pino.destination({ dest: path, sync: false })))),
      })),
      logging('pino.destination, as it is by default', aims.five, work, ({ path }) => ({
        write: logs(pino(pinoOptions, pino.destination(path))),
      })),
    ],
    finish: removeLogFiles,
  }
}

// --- nothing can be written any more

/** Lines into what is full; every one of them has to cost one line. */
const dropping = (name: string, aim: Aim | undefined, make: () => { write(): void; dropped(): number }): Contender => ({
  name,
  ...(aim && { aim }),
  prepare: async () => {
    const { write, dropped } = make()
    // What can be written meanwhile makes room a few times.
    for (let time = 0; time < 5; time++) {
      write()
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
    let before = dropped()
    return {
      async: false,
      turn: write,
      check: () => {
        const now = dropped()
        if (now - before !== lines.length) throw new Error(`wrong answer: ${now - before} lines were dropped`)
        before = now
      },
    }
  },
})

const spillwayFull = (name: string, options: AsyncLogBufferOptions): Contender =>
  dropping(name, undefined, () => {
    const log = new AsyncLogBuffer({ write: () => new Promise(() => {}) }, options)
    return {
      write: () => {
        for (let i = 0; i < lines.length; i++) log.write(lines[i] as string)
      },
      dropped: () => log.stats().dropped,
    }
  })

const pipes: string[] = []

/** A pipe that nobody reads: it takes 64 KiB, and then nothing. */
function unreadPipe(): number {
  const directory = mkdtempSync(join(tmpdir(), 'spillway-bench-'))
  pipes.push(directory)
  execFileSync('mkfifo', [join(directory, 'pipe')])
  return openSync(join(directory, 'pipe'), constants.O_RDWR | constants.O_NONBLOCK)
}

const full: Contest = {
  name: 'a full buffer, a line that is dropped',
  operation: 'line',
  operations: lines.length,
  contenders: [
    spillwayFull('spillway, drop-newest', {}),
    spillwayFull('spillway, drop-oldest', { overflow: 'drop-oldest' }),
    // All are of one level here: each is asked for, and the newest goes.
    spillwayFull('spillway, levelOf', { levelOf: (line) => line.charCodeAt(9) }),
    dropping('sonic-boom 4.2.0, maxLength', undefined, () => {
      let dropped = 0
      const log = new SonicBoom4({ fd: unreadPipe(), sync: false, maxLength: 1000 * lineBytes })
      log.on('drop', () => dropped++)
      return {
        write: () => {
          for (let i = 0; i < lines.length; i++) log.write(lines[i] as string)
        },
        dropped: () => dropped,
      }
    }),
    dropping('sonic-boom 5, maxLength', { atMost: 1 }, () => {
      let dropped = 0
      const log = new SonicBoom5({ fd: unreadPipe(), sync: false, maxLength: 1000 * lineBytes })
      log.on('drop', () => dropped++)
      return {
        write: () => {
          for (let i = 0; i < lines.length; i++) log.write(lines[i] as string)
        },
        dropped: () => dropped,
      }
    }),
  ],
  finish: async () => {
    for (const path of pipes) rmSync(path, { recursive: true, force: true })
  },
}

await serveSuite([
  straight("bursts of 1000 lines, the caller's own part", bursts, 'write', {
    four: { atMost: 1.5 },
    five: { timesFaster: 10 },
  }),
  straight('bursts of 1000 lines, until the file has all', bursts, 'arrival', {
    four: { timesFaster: 2 },
    five: { timesFaster: 3 },
  }),
  straight('one burst of 1000 lines, until the file has all', burst, 'arrival', {
    four: { atMost: 1 },
    five: { timesFaster: 3 },
  }),
  straight("a line a turn, the caller's own part", singles, 'write', {}),
  straight('a line a turn, until the file has all', singles, 'arrival', {}),
  behindPino("bursts of 1000 lines by pino, the caller's own part", 'write', {
    four: { atMost: 1.5 },
    five: { timesFaster: 2 },
  }),
  behindPino('bursts of 1000 lines by pino, until the file has all', 'arrival', {
    four: { atMost: 1 },
    five: { timesFaster: 2 },
  }),
  full,
])
