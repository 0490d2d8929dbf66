import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { isSpillwayError } from 'spillway'
import { FileJournal, type FileJournalEvents } from 'spillway/file'
import { afterAll, expect, test } from 'vitest'
import { Directories } from './support/directories.js'
import { appendEach, contentOf, openJournal, readAgain } from './support/usage.js'

const root = fileURLToPath(new URL('../../..', import.meta.url))
const script = fileURLToPath(new URL('./support/holder-process.ts', import.meta.url))
const directories = new Directories()
const running = new Set<ChildProcess>()
afterAll(async () => {
  // Only what failed to end by itself is still here.
  for (const child of running) child.kill('SIGKILL')
  await directories[Symbol.asyncDispose]()
})

/** A process that opens a journal, and says how that went. */
async function holder(directory: string) {
  const child = spawn(process.execPath, ['--import', 'tsx', script, directory], {
    cwd: root,
    env: { ...process.env, TSX_TSCONFIG_PATH: 'tsconfig.check.json' },
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  running.add(child)
  const ended = once(child, 'close')
  const [said] = (await once(child.stdout, 'data')) as [Buffer]
  const gone = async (): Promise<unknown> => {
    const how = await ended
    running.delete(child)
    return how
  }
  return {
    said: said.toString(),
    kill: () => {
      child.kill('SIGKILL')
      return gone()
    },
    /** Takes away what keeps it alive. */
    leave: () => {
      child.stdin.end()
      return gone()
    },
  }
}

function lockOf(directory: string): Record<string, unknown> {
  return JSON.parse(readFileSync(join(directory, 'lock'), 'utf8'))
}

test('a directory is one journal’s at a time, within a process too', async () => {
  const directory = await directories.make()
  const { journal } = await openJournal(directory)
  const other = new FileJournal(directory, { name: 'other' })

  const error = await other.open().catch((error: unknown) => error)

  expect(isSpillwayError(error, 'ERR_STORE') && error.retryable).toBe(true)
  expect((error as Error).message).toContain(`other: ${directory} is held by this process on ${hostname()}`)
  await journal.close()
  await other.open()
  await other.close()
})

test('closed while it is being opened, it gives the directory back, and so where that fails', async () => {
  const directory = await directories.make()
  const journal = new FileJournal(directory)

  const opening = journal.open()
  const closing = journal.close()

  expect(await opening).toEqual({ batches: [], events: [] })
  await closing
  await expect(journal.open()).rejects.toMatchObject({ code: 'ERR_CLOSED' })

  const { journal: holder } = await openJournal(directory)
  const late = new FileJournal(directory)
  const failing = late.open()
  await late.close()
  await expect(failing).rejects.toThrow('is held by this process')
  await holder.close()
  expect(readdirSync(directory)).toEqual([])
  expect(directories.stillOpen()).toEqual([])
})

test('the lock says which process holds it, and since when that runs', async () => {
  const directory = await directories.make()
  const { journal } = await openJournal(directory)

  const stat = readFileSync('/proc/self/stat', 'utf8')
  expect(lockOf(directory)).toMatchObject({
    pid: process.pid,
    host: hostname(),
    started: stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19],
  })
  await journal.close()
})

test('the lock of another process holds as long as that lives, and is taken over once it was killed', async () => {
  const directory = await directories.make()
  const { said, kill } = await holder(directory)
  expect(said).toBe('open\n')

  await expect(new FileJournal(directory).open()).rejects.toThrow(/is held by process \d+ on /)

  const { pid } = lockOf(directory)
  await kill()
  const journal = new FileJournal(directory)
  const taken: FileJournalEvents['lockTakenOver'][] = []
  journal.on('lockTakenOver', (event) => taken.push(event))
  const remains = await journal.open()
  await journal.close()
  expect(taken).toEqual([{ pid, host: hostname(), since: expect.any(String) }])
  expect(contentOf(remains)).toEqual({ batches: {}, events: [1] })
}, 60_000)

test('an open journal keeps no process alive, and is free once that has ended', async () => {
  const directory = await directories.make()
  const { said, leave } = await holder(directory)
  expect(said).toBe('open\n')

  expect(await leave()).toEqual([0, null])

  expect(await readAgain(directory)).toEqual({ batches: {}, events: [1] })
}, 60_000)

test('a dead process’ id that is another one’s now does not hold the lock', async () => {
  const directory = await directories.make()
  const { journal } = await openJournal(directory)
  await appendEach(journal, [1])
  const lock = lockOf(directory)
  await journal.close()
  // It had no socket, and this process has its id but was started at another time.
  writeFileSync(join(directory, 'lock'), JSON.stringify({ ...lock, socket: false, started: '1', token: 'gone' }))

  expect(await readAgain(directory)).toEqual({ batches: {}, events: [1] })

  writeFileSync(join(directory, 'lock'), JSON.stringify({ ...lock, socket: false, token: 'here' }))
  await expect(new FileJournal(directory).open()).rejects.toThrow('is held by this process')
})

test('the lock of a machine that cannot be asked holds, until somebody removes it', async () => {
  const directory = await directories.make()
  const lock = {
    pid: 1,
    host: 'elsewhere',
    since: '2026-11-20T00:00:00.000Z',
    token: 'x',
    boot: 'another',
    socket: true,
  }
  writeFileSync(join(directory, 'lock'), JSON.stringify(lock))

  await expect(new FileJournal(directory).open()).rejects.toThrow(
    `is held by process 1 on elsewhere since ${lock.since}. If that process is gone for good, remove ${directory}/lock`,
  )
})

test('of many who take over a dead lock at once, one gets it', async () => {
  for (let round = 0; round < 10; round++) {
    const directory = await directories.make()
    const { journal } = await openJournal(directory)
    const lock = lockOf(directory)
    await journal.close()
    writeFileSync(join(directory, 'lock'), JSON.stringify({ ...lock, pid: 2 ** 22 + 1, token: `dead-${round}` }))

    const journals = Array.from({ length: 10 }, () => new FileJournal(directory))
    const outcomes = await Promise.allSettled(journals.map((each) => each.open()))

    expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
    for (const outcome of outcomes) {
      if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ code: 'ERR_STORE', retryable: true })
    }
    await Promise.all(journals.map((each) => each.close()))
  }
})
