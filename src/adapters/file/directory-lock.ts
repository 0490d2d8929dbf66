import { randomUUID } from 'node:crypto'
import { link, open, readFile, readlink, rename } from 'node:fs/promises'
import { createConnection, createServer, type Server } from 'node:net'
import { hostname } from 'node:os'
import { StoreError } from '../../core/errors.js'
import { codeOf, fileMode, type JournalDirectory, removeIfThere } from './journal-directory.js'

/** Who holds a lock. */
export interface LockHolder {
  /** Its process, as its own system numbers them. */
  readonly pid: number
  /** Its machine or container. */
  readonly host: string
  /** When it took the lock, in ISO 8601. */
  readonly since: string
  /** Another one each time that a lock is taken. */
  readonly token: string
  /** Which boot of which kernel it runs on, where that can be told. */
  readonly boot?: string | undefined
  /** In whose numbering its process id is, where that can be told. */
  readonly pids?: string | undefined
  /** When its process was started, in ticks of its kernel, where that can be told. */
  readonly started?: string | undefined
  /** Whether it listens on a socket. */
  readonly socket: boolean
}

/**
 * A lock on a directory, which ends with its process.
 *
 * It is a file that says who holds it. Whether that process still lives is asked of the kernel: it listens on a socket in the
 * directory, where a dead one refuses the connection. That answer is right in containers too, whatever process ids they see. Where
 * there can be no socket, the process id decides, together with when that process was started, since ids come again.
 */
export class DirectoryLock {
  /** The dead holder from whom it was taken over. */
  readonly takenFrom: LockHolder | undefined
  readonly #path: string
  readonly #token: string
  readonly #server: Server | undefined

  private constructor(path: string, token: string, server: Server | undefined, takenFrom: LockHolder | undefined) {
    this.#path = path
    this.#token = token
    this.#server = server
    this.takenFrom = takenFrom
  }

  /**
   * Takes a lock.
   *
   * @throws StoreError when another one holds it.
   */
  static async acquire(journal: string, directory: JournalDirectory, name = 'lock'): Promise<DirectoryLock> {
    const path = directory.file(name)
    const token = randomUUID()
    const server = await listen(socketPath(directory, token))
    const me = await describeSelf(token, server !== undefined)
    const draft = `${path}.${token}.tmp`
    try {
      await write(draft, `${JSON.stringify(me)}\n`)
      const takenFrom = await DirectoryLock.#put(journal, directory, name, draft, me)
      return new DirectoryLock(path, token, server, takenFrom)
    } catch (error) {
      await stopListening(server)
      throw error
    } finally {
      await removeIfThere(draft)
    }
  }

  /** Gives the lock back. */
  async release(): Promise<void> {
    try {
      const holder = await readHolder(this.#path)
      if (holder?.token === this.#token) await removeIfThere(this.#path)
    } finally {
      await stopListening(this.#server)
    }
  }

  /** Puts the draft in the lock's place. Answers from whom it was taken over. */
  static async #put(
    journal: string,
    directory: JournalDirectory,
    name: string,
    draft: string,
    me: LockHolder,
  ): Promise<LockHolder | undefined> {
    const path = directory.file(name)
    for (;;) {
      // Unlike an exclusive open, it never shows others a lock that isn't written yet.
      if (await linkIfFree(draft, path)) return undefined
      const holder = await readHolder(path)
      if (holder === undefined) continue
      if (await isAlive(directory, holder, me)) throw held(journal, directory, path, holder)
      // Of those who see it dead at the same time, one may replace it, and only as long as it is still that one's.
      const takeover = await DirectoryLock.acquire(journal, directory, `${name}.${holder.token}`)
      try {
        if ((await readHolder(path))?.token !== holder.token) continue
        await rename(draft, path)
        const socket = socketPath(directory, holder.token)
        if (socket !== undefined) await removeIfThere(socket)
        return holder
      } finally {
        await takeover.release()
      }
    }
  }
}

function held(journal: string, directory: JournalDirectory, path: string, holder: LockHolder): StoreError {
  const who = holder.pid === process.pid && holder.host === hostname() ? 'this process' : `process ${holder.pid}`
  return new StoreError(
    `${journal}: ${directory.path} is held by ${who} on ${holder.host} since ${holder.since}. ` +
      `If that process is gone for good, remove ${path}`,
  )
}

async function write(path: string, text: string): Promise<void> {
  const handle = await open(path, 'w', fileMode)
  try {
    await handle.writeFile(text)
    // After a power failure an empty lock would say nothing about whose it was.
    await handle.sync()
  } finally {
    await handle.close()
  }
}

async function linkIfFree(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to)
    return true
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return false
    throw error
  }
}

/** Who a lock says that it is held by; undefined where there is none any more. */
async function readHolder(path: string): Promise<LockHolder | undefined> {
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined
    throw error
  }
  try {
    return JSON.parse(text)
  } catch (cause) {
    const message = `${path} can't be read as a lock. If no process uses the journal, remove it`
    throw new StoreError(message, { cause, retryable: false, outcomeUnknown: false })
  }
}

async function describeSelf(token: string, socket: boolean): Promise<LockHolder> {
  return {
    pid: process.pid,
    host: hostname(),
    since: new Date().toISOString(),
    token,
    boot: await textOf('/proc/sys/kernel/random/boot_id'),
    pids: await readlink('/proc/self/ns/pid').catch(() => undefined),
    started: await startOf(process.pid),
    socket,
  }
}

async function isAlive(directory: JournalDirectory, holder: LockHolder, me: LockHolder): Promise<boolean> {
  const sameMachine = holder.host === me.host
  const sameKernel = holder.boot === undefined || me.boot === undefined ? sameMachine : holder.boot === me.boot
  // The same machine with another kernel was started anew. Of another machine nothing can be told.
  if (!sameKernel) return !sameMachine
  if (holder.socket) {
    const answer = await knock(socketPath(directory, holder.token))
    if (answer !== 'missing') return answer === 'alive'
  }
  // In another numbering, the same id is another process.
  if (holder.pids !== me.pids) return true
  return isRunning(holder)
}

async function isRunning({ pid, started }: LockHolder): Promise<boolean> {
  try {
    process.kill(pid, 0)
  } catch (error) {
    // It may be there and belong to somebody else.
    if (codeOf(error) === 'ESRCH') return false
  }
  const now = await startOf(pid)
  return started === undefined || now === undefined || started === now
}

/** When a process was started: field 22 of its stat (proc(5)); its name, the second one, may have anything in it. */
async function startOf(pid: number): Promise<string | undefined> {
  const stat = await textOf(`/proc/${pid}/stat`)
  return stat?.slice(stat.lastIndexOf(')') + 2).split(' ')[19]
}

async function textOf(path: string): Promise<string | undefined> {
  return readFile(path, 'utf8').then(
    (text) => text.trim(),
    () => undefined,
  )
}

/** The longest path that a socket has everywhere. */
const maxSocketPath = 100

/** Where the holder with a token listens. */
function socketPath(directory: JournalDirectory, token: string): string | undefined {
  const name = `lock-${token.slice(0, 8)}.sock`
  const path = directory.file(name)
  if (process.platform === 'win32') return undefined
  if (Buffer.byteLength(path) <= maxSocketPath) return path
  return process.platform === 'linux' ? `/proc/self/fd/${directory.descriptor}/${name}` : undefined
}

/** Listens, where that can be done; not every file system has sockets. */
function listen(path: string | undefined): Promise<Server | undefined> {
  if (path === undefined) return Promise.resolve(undefined)
  return new Promise((resolve) => {
    const server = createServer((socket) => socket.destroy())
    server.on('error', () => resolve(undefined))
    // A worker of a cluster must listen itself, or its lock would end with the primary.
    server.listen({ path, exclusive: true }, () => {
      server.unref()
      resolve(server)
    })
  })
}

/** Takes the socket's file away too. */
function stopListening(server: Server | undefined): Promise<void> {
  return new Promise((resolve) => {
    if (server === undefined) resolve()
    else server.close(() => resolve())
  })
}

function knock(path: string | undefined): Promise<'alive' | 'dead' | 'missing'> {
  if (path === undefined) return Promise.resolve('missing')
  return new Promise((resolve) => {
    const socket = createConnection(path)
    socket.on('connect', () => {
      socket.destroy()
      resolve('alive')
    })
    socket.on('error', (error) => {
      const code = codeOf(error)
      resolve(code === 'ECONNREFUSED' ? 'dead' : code === 'ENOENT' ? 'missing' : 'alive')
    })
  })
}
