import * as nodeFiles from 'node:fs'
import { existsSync, readFileSync, renameSync } from 'node:fs'
import { join } from 'node:path'
import { FileSink, type FileSinkOptions, type FileSystem } from 'spillway/file'
import { type LogSinkPlace, logSinkContract } from 'spillway/testing'
import { describe, test } from 'vitest'
import { logDirectory } from './support/log-files.js'
import { fault } from './support/simulated-files.js'

/** The real file system, in which writes fail as long as `code` is set. */
function failingFiles(): FileSystem & { code: string | undefined } {
  const files: FileSystem & { code: string | undefined } = {
    ...nodeFiles,
    code: undefined,
    write: (fd, buffer, offset, length, position, callback) => {
      if (files.code === undefined) nodeFiles.write(fd, buffer, offset, length, position, callback)
      else setImmediate(callback, fault(files.code), 0)
    },
    writeSync: (fd, buffer, offset, length, position) => {
      if (files.code !== undefined) throw fault(files.code)
      return nodeFiles.writeSync(fd, buffer, offset, length, position)
    },
  }
  return files
}

function placeOf(options: Partial<FileSinkOptions> = {}): LogSinkPlace {
  const directory = logDirectory()
  const path = join(directory.path, 'app.log')
  const files = failingFiles()
  const sink = new FileSink({ path, fs: files, retryDelayMs: 1, maxRetryDelayMs: 2, syncTimeoutMs: 20, ...options })
  const failWith = (code: string): (() => void) => {
    files.code = code
    return () => {
      files.code = undefined
    }
  }
  return {
    open: () => sink,
    read: () => (existsSync(path) ? readFileSync(path) : ''),
    rotate: () => {
      renameSync(path, `${path}.moved`)
      return () => readFileSync(`${path}.moved`)
    },
    stall: () => failWith('ENOSPC'),
    fail: () => failWith('EIO'),
    end: async () => {
      await sink.close()
      directory[Symbol.dispose]()
    },
  }
}

describe('FileSink keeps the contract of log sinks', () => {
  for (const { name, run } of logSinkContract({ place: () => placeOf() })) test(name, run)
})

describe('FileSink that rotates keeps the contract of log sinks', () => {
  const place = (): LogSinkPlace => placeOf({ rotate: { maxBytes: 2 ** 30, every: 'day' } })
  for (const { name, run } of logSinkContract({ place })) test(name, run)
})

describe('FileSink on a descriptor keeps the contract of log sinks', () => {
  const place = (): LogSinkPlace => {
    const directory = logDirectory()
    const path = join(directory.path, 'app.log')
    const fd = nodeFiles.openSync(path, 'a')
    return {
      open: () => new FileSink({ fd }),
      read: () => readFileSync(path),
      end: () => {
        nodeFiles.closeSync(fd)
        directory[Symbol.dispose]()
      },
    }
  }
  for (const { name, run } of logSinkContract({ place })) test(name, run)
})
