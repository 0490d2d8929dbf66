import pino from 'pino'
import {
  AsyncLogBuffer,
  type AsyncLogBufferEvents,
  type AsyncLogBufferOptions,
  type AsyncLogBufferStats,
  type ClosableComponent,
  type CloseReport,
  type FlushReport,
  type LogSink,
} from 'spillway'
import { FileSink } from 'spillway/file'
import { closeOnExit } from 'spillway/process'
import { expectTypeOf } from 'vitest'

const log = new AsyncLogBuffer({ write: async (chunk) => void expectTypeOf(chunk).toEqualTypeOf<string>() })

expectTypeOf(log.write).parameters.toEqualTypeOf<[line: string]>()
expectTypeOf(log.write('a')).toEqualTypeOf<boolean>()
expectTypeOf(log.flush()).resolves.toEqualTypeOf<FlushReport>()
expectTypeOf(log.flush).parameter(0).toEqualTypeOf<((error?: Error) => void) | undefined>()
expectTypeOf(log.flushSync()).toEqualTypeOf<void>()
expectTypeOf(log.reopen()).toEqualTypeOf<Promise<void>>()
expectTypeOf(log.close()).resolves.toEqualTypeOf<CloseReport>()
expectTypeOf(log.stats()).toEqualTypeOf<AsyncLogBufferStats>()
expectTypeOf(log.stats().untoldDrops).toEqualTypeOf<number>()
expectTypeOf(log).toExtend<AsyncDisposable>()
expectTypeOf(log).toExtend<ClosableComponent<AsyncLogBufferEvents, AsyncLogBufferStats>>()

// What it goes with.
expectTypeOf(log).toExtend<pino.DestinationStream>()
pino(log)
pino({ level: 'info' }, log)
closeOnExit([log, new FileSink({ path: 'app.log' })])
expectTypeOf<FileSink>().toExtend<LogSink>()
new AsyncLogBuffer({ write: () => undefined, writeSync: () => undefined, reopen: () => undefined })

log.on('failed', (event) => {
  expectTypeOf(event.lines).toEqualTypeOf<readonly string[]>()
  expectTypeOf(event.error).toEqualTypeOf<unknown>()
})
log.on('dropped', ({ line, reason }) => {
  expectTypeOf(line).toEqualTypeOf<string>()
  expectTypeOf(reason).toEqualTypeOf<'drop-newest' | 'drop-oldest'>()
})
expectTypeOf(log.on('written', () => undefined)).toEqualTypeOf<() => void>()
expectTypeOf<AsyncLogBufferOptions['levelOf']>().toEqualTypeOf<((line: string) => number) | undefined>()

// @ts-expect-error a sink is required
new AsyncLogBuffer()
// @ts-expect-error a sink writes
new AsyncLogBuffer({ writeSync: () => undefined })
// @ts-expect-error an overflow that there isn't
new AsyncLogBuffer({ write: () => undefined }, { overflow: 'block' })
// @ts-expect-error a level is a number
new AsyncLogBuffer({ write: () => undefined }, { levelOf: (line: string) => line })
// @ts-expect-error chunks go one at a time
new AsyncLogBuffer({ write: () => undefined }, { concurrency: 2 })
// @ts-expect-error a line is a string
log.write(Buffer.from('a'))
// @ts-expect-error no such event
log.on('exploded', () => undefined)
// @ts-expect-error events are facts, nobody changes them
log.on('written', (event) => (event.lines = 0))
// @ts-expect-error a stats snapshot is read only
log.stats().dropLines = 0
