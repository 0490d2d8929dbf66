import type { Clock } from '../../core/clock.js'
import { backoffMs } from '../../core/retry.js'
import { handled } from '../../internal/deferred.js'
import { BlockingWait } from './blocking-wait.js'
import { isPassingFault, nothingWritten } from './file-fault.js'
import type { FileSinkPolicy } from './file-sink-options.js'
import type { LogFile } from './log-file.js'
import type { LogTarget } from './log-target.js'
import { ChunkEncoder, PendingWrite } from './pending-write.js'

/** How long a write in the thread pool that can't be watched is given to be done, in milliseconds. */
const unwatchedMs = 50

/** What is told of the writes. */
export interface SinkWriterFace {
  /** The target took some bytes, of a write of `asked`. */
  took(bytes: number, asked: number): void
  /** The target takes nothing now. */
  blocked(error: unknown): void
  /** There is a wait before another try. */
  waiting(): void
  succeeded(): void
  /** A write failed for good. @returns the error for its caller. */
  failed(error: unknown, write: PendingWrite): unknown
  /** The same, because the target couldn't be opened. */
  openFailed(error: unknown): unknown
  /** A write was given up. */
  abandoned(): void
  rotationFailed(error: unknown): void
  /** What `writeSync` had seen done came to something else. */
  misjudged(error: unknown): void
}

/** A write in the thread pool. */
interface Flight {
  readonly write: PendingWrite
  readonly file: LogFile
  readonly length: number
  /** Where the descriptor stood before. */
  readonly before: number | undefined
  /** How many bytes were seen to be written before its callback was called. */
  taken: number | undefined
}

/** Something else that is done to the target, in turn with the writes. */
interface Chore {
  /** The last write that comes before it. */
  readonly after: number
  /** Whether it needn't wait for a write that waits itself: it may be what makes room. */
  readonly overtakes: boolean
  readonly run: () => Promise<void>
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
}

/**
 * Brings chunks to a target, one after the other and each byte once: in the thread pool as a rule, and synchronously, from wherever it
 * stands, when a process is about to end.
 */
export class SinkWriter {
  /** How many chunks aren't settled. */
  pending = 0
  readonly #policy: FileSinkPolicy
  readonly #target: LogTarget
  readonly #clock: Clock
  readonly #random: () => number
  readonly #face: SinkWriterFace
  readonly #encoder = new ChunkEncoder()
  #accepted = 0
  #first: PendingWrite | undefined
  #last: PendingWrite | undefined
  #chores: Chore[] = []
  /** Whether something is on its way in the thread pool. */
  #busy = false
  #flight: Flight | undefined
  /** Set while the first write waits before another try. */
  #cancelRetry: (() => void) | undefined
  #retry = 0
  /** How long synchronous writes still wait in this turn of the event loop. */
  #patience: BlockingWait | undefined
  /** Whether a loop over the writes is running: what its listeners call must begin no second one. */
  #looping = false

  constructor(policy: FileSinkPolicy, target: LogTarget, clock: Clock, random: () => number, face: SinkWriterFace) {
    this.#policy = policy
    this.#target = target
    this.#clock = clock
    this.#random = random
    this.#face = face
  }

  get busy(): boolean {
    return this.#busy
  }

  /** What is left to write, in bytes. */
  get pendingBytes(): number {
    let bytes = 0
    for (let write = this.#first; write !== undefined; write = write.next) bytes += write.leftBytes
    return bytes
  }

  /** Puts a chunk behind those before; `advance` or `writeOut` comes next. */
  accept(chunk: string): PendingWrite {
    const write = new PendingWrite(chunk, ++this.#accepted)
    if (this.#last === undefined) this.#first = write
    else this.#last.next = write
    this.#last = write
    this.pending++
    return write
  }

  /** Does something to the target, after all that was accepted before; while that can't be written, at once if it `overtakes`. */
  perform(run: () => Promise<void>, overtakes: boolean): Promise<void> {
    const done = new Promise<void>((resolve, reject) => {
      this.#chores.push({ after: this.#accepted, overtakes, run, resolve, reject })
    })
    this.advance()
    return handled(done)
  }

  /** Does what can be done now. */
  advance(): void {
    if (this.#looping) return
    this.#looping = true
    let more = true
    while (more && !this.#busy) more = this.#step()
    this.#looping = false
  }

  /** Ends a wait before another try. */
  hurry(): void {
    this.#cancelRetry?.()
    this.#cancelRetry = undefined
    this.advance()
  }

  /** Writes all that was accepted, whatever is in flight, while everything else waits. What is left when it returns goes on by `advance`. */
  writeOut(): void {
    const nested = this.#looping
    this.#looping = true
    this.#cancelRetry?.()
    this.#cancelRetry = undefined
    const wait = this.#patienceOfTurn()
    const flight = this.#flight
    if (flight === undefined || flight.taken !== undefined || this.#takeOver(flight, wait)) this.#writeAll(wait)
    this.#looping = nested
  }

  /** Gives up every write and chore but the last one. */
  abandon(error: unknown): void {
    for (let write = this.#first; write !== undefined; write = this.#first) {
      this.#shift()
      this.#face.abandoned()
      write.fail(error)
    }
    for (const { reject } of this.#chores.splice(0, this.#chores.length - 1)) reject(error)
    this.hurry()
  }

  /** The target has become another file. */
  moved(from: LogFile, to: LogFile): void {
    this.#first?.moveTo(to.isSame(from))
  }

  /** @returns whether another step may follow at once. */
  #step(): boolean {
    const write = this.#first
    const chore = this.#chores[0]
    const waits = this.#cancelRetry !== undefined
    if (chore !== undefined && (write === undefined || write.order > chore.after || (waits && chore.overtakes))) {
      this.#chores.shift()
      this.#occupy(chore.run().then(chore.resolve, chore.reject), true)
      return false
    }
    if (write === undefined || waits) return false
    if (write.empty) {
      this.#shift()
      this.#succeed(write)
      return true
    }
    const { file } = this.#target
    if (file === undefined) {
      this.#occupy(this.#target.open().catch((error) => this.#openFailed(error)))
      return false
    }
    write.encode(this.#encoder, file.torn)
    if (!write.begun && this.#target.rotationDue(write.length)) {
      this.#occupy(this.#target.rotate().catch((error) => this.#face.rotationFailed(error)))
      return false
    }
    if (file.pooled) {
      this.#send(write, file)
      return false
    }
    const blocked = this.#attempt(write, file)
    if (blocked !== undefined) this.#waitFor(blocked)
    // A listener may have ended the wait, and left it to this loop to go on.
    return this.#cancelRetry === undefined
  }

  /** Nothing else begins until this is over. */
  #occupy(work: Promise<void>, thenHurry = false): void {
    this.#busy = true
    void work.then(() => {
      this.#busy = false
      if (thenHurry) this.hurry()
      else this.advance()
    })
  }

  #openFailed(error: unknown): void {
    const write = this.#first
    // It may have been opened meanwhile, or given up.
    if (write === undefined || this.#target.file !== undefined) return
    if (isPassingFault(error)) this.#waitFor(error)
    else {
      this.#shift()
      write.fail(this.#face.openFailed(error))
    }
  }

  #send(write: PendingWrite, file: LogFile): void {
    const { offset } = write
    const length = write.length - offset
    const flight: Flight = { write, file, length, before: file.prepare(), taken: undefined }
    this.#busy = true
    this.#flight = flight
    this.#policy.fs.write(file.fd, write.bytes as Uint8Array, offset, length, null, (error, bytes) => {
      this.#busy = false
      this.#flight = undefined
      this.#land(flight, error ?? undefined, bytes)
      this.advance()
    })
  }

  #land(flight: Flight, error: unknown, bytes: number): void {
    const { write, file, length, taken } = flight
    if (taken !== undefined) {
      if (error !== undefined || bytes !== taken) this.#face.misjudged(error ?? new Error(`${bytes} of ${taken} bytes`))
    } else if (write.state === 'pending') {
      const blocked = this.#settle(write, file, length, error === undefined ? bytes : 0, error ?? nothingWritten)
      if (blocked !== undefined) this.#waitFor(blocked)
    }
  }

  /** Makes one write at once. @returns why it has to wait, if it has to. */
  #attempt(write: PendingWrite, file: LogFile): unknown {
    const asked = write.length - write.offset
    let bytes = 0
    let error: unknown = nothingWritten
    try {
      bytes = this.#policy.fs.writeSync(file.fd, write.bytes as Uint8Array, write.offset, asked, null)
    } catch (thrown) {
      error = thrown
    }
    return this.#settle(write, file, asked, bytes, error)
  }

  /** Notes what became of an attempt. @returns why it has to wait, if it has to. */
  #settle(write: PendingWrite, file: LogFile, asked: number, bytes: number, error: unknown): unknown {
    if (bytes > 0) {
      this.#retry = 0
      write.offset += bytes
      file.size += bytes
      file.torn = write.stoppedWithinLine
      const whole = write.offset === write.length
      // Listeners may begin anything: this write is out of their way by then.
      if (whole) {
        file.torn = false
        this.#shift()
      }
      this.#face.took(bytes, asked)
      if (whole) this.#succeed(write)
    } else if (isPassingFault(error)) {
      return error
    } else {
      this.#shift()
      write.fail(this.#face.failed(error, write))
    }
    return undefined
  }

  #waitFor(error: unknown): void {
    const { retryDelayMs: delayMs, maxRetryDelayMs: maxDelayMs } = this.#policy
    const delay = backoffMs(++this.#retry, { delayMs, maxDelayMs }, this.#random)
    this.#cancelRetry = this.#clock.setTimer(() => {
      this.#cancelRetry = undefined
      this.advance()
    }, delay)
    this.#face.waiting()
    this.#face.blocked(error)
  }

  #patienceOfTurn(): BlockingWait {
    if (this.#patience === undefined) {
      this.#patience = new BlockingWait(this.#policy.syncTimeoutMs)
      this.#clock.defer(() => {
        this.#patience = undefined
      })
    }
    return this.#patience
  }

  /** Waits until a write in the thread pool is done, and notes what became of it. @returns whether it is. */
  #takeOver(flight: Flight, wait: BlockingWait): boolean {
    const { write, file, length } = flight
    const limit = file.regular ? wait : new BlockingWait(Math.min(unwatchedMs, this.#policy.syncTimeoutMs))
    do {
      if (file.regular) flight.taken = file.landed(flight.before, length)
    } while (flight.taken === undefined && limit.pass())
    if (flight.taken === undefined) {
      if (file.regular) return false
      // Nobody can tell. To wait longer would lose the rest rather than this: presume it done.
      flight.taken = length
    }
    // Should it not be over after all, it still finds what it has to write.
    this.#encoder.abandon()
    this.#settle(write, file, length, flight.taken, nothingWritten)
    return true
  }

  #writeAll(wait: BlockingWait): void {
    for (let write = this.#first; write !== undefined; write = this.#first) {
      const blocked = this.#writeNow(write)
      if (blocked === undefined) continue
      this.#face.blocked(blocked)
      if (!wait.pass()) return
    }
  }

  /** One step of `writeAll`. @returns why it has to wait, if it has to. */
  #writeNow(write: PendingWrite): unknown {
    if (write.empty) {
      this.#shift()
      this.#succeed(write)
      return undefined
    }
    let file: LogFile
    try {
      file = this.#target.openSync()
    } catch (error) {
      if (isPassingFault(error)) return error
      this.#shift()
      write.fail(this.#face.openFailed(error))
      return undefined
    }
    // A listener that was told of the opening may have written it.
    if (write !== this.#first) return undefined
    write.encode(this.#encoder, file.torn)
    return this.#attempt(write, file)
  }

  #succeed(write: PendingWrite): void {
    this.#face.succeeded()
    write.succeed()
  }

  #shift(): void {
    const next = this.#first?.next
    this.#first = next
    if (next === undefined) this.#last = undefined
    this.pending--
  }
}
