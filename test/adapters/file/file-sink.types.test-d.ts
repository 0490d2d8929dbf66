import * as nodeFiles from 'node:fs'
import type { Writable } from 'node:stream'
import { AsyncLogBuffer, type LogSink, type StoreError } from 'spillway'
import { asWritable, FileSink, type FileSinkEvents, type FileSystem, type LineBuffer } from 'spillway/file'
import { expectTypeOf, test } from 'vitest'

test('it is the sink that an AsyncLogBuffer takes', () => {
  expectTypeOf<FileSink>().toExtend<LogSink>()
  expectTypeOf<FileSink>().toExtend<AsyncDisposable>()
  expectTypeOf(AsyncLogBuffer).toBeConstructibleWith(new FileSink({ path: 'app.log' }))
})

test('a synchronous write answers with nothing, or with a promise of the rest', () => {
  expectTypeOf<FileSink['writeSync']>().returns.toEqualTypeOf<void | Promise<void>>()
})

test('a period has a name', () => {
  // @ts-expect-error
  new FileSink({ path: 'app.log', rotate: { every: 'week' } })
})

test('events carry what happened', () => {
  expectTypeOf<FileSinkEvents['failed']['error']>().toEqualTypeOf<StoreError>()
  expectTypeOf<FileSinkEvents['rotated']['rotatedPath']>().toEqualTypeOf<string>()
})

test('the file system of Node is one', () => {
  expectTypeOf(nodeFiles).toExtend<FileSystem>()
})

test('asWritable takes an AsyncLogBuffer, and makes a stream', () => {
  expectTypeOf<AsyncLogBuffer>().toExtend<LineBuffer>()
  expectTypeOf(asWritable).returns.toEqualTypeOf<Writable>()
})
