import { type AcceptedUsage, isSpillwayError } from 'spillway'
import { FileJournal } from 'spillway/file'
import { seededRandom } from 'spillway/testing'
import { afterAll, describe, expect, test, vi } from 'vitest'
import { collect, Directories } from './support/directories.js'
import { disk } from './support/disk.js'
import { JournalModel, type ModelBatch, type ModelUse, type Outcome } from './support/journal-model.js'
import { use } from './support/usage.js'

vi.mock('node:fs/promises', async (original) => (await import('./support/disk.js')).disk.wrap(await original()))

const directories = new Directories()
afterAll(() => directories[Symbol.asyncDispose]())

/** How a life ends, and what goes wrong in it. */
interface Trouble {
  readonly crash: 'kill' | 'power failure'
  /** How often a step fails, from 0 to 1. */
  readonly faults: number
}

/** What a crash left, and what was known then. */
interface Left {
  readonly directory: string
  readonly model: JournalModel
}

/** Several lives of one journal, each of them cut off at a random step. */
class Lives {
  readonly #random: () => number
  readonly #trouble: Trouble
  #model = new JournalModel()
  #nextValue = 1
  #nextBatch = 1
  /** What is given up while dead letters are requeued may be among those. */
  #requeueing = 0
  #left: Left | undefined

  constructor(seed: string, trouble: Trouble) {
    this.#random = seededRandom(seed)
    this.#trouble = trouble
  }

  /**
   * @param lives - how many there are at least.
   * @returns how many uses came back over all lives.
   */
  async run(lives: number): Promise<number> {
    let directory = await directories.make()
    let cameBack = 0
    // Where all were cut off early, there was nothing to come back.
    for (let life = 0; life < lives || (cameBack === 0 && life < 5 * lives); life++) {
      cameBack += await this.#live(directory, await directories.make())
      const left = this.#left as unknown as Left
      directory = left.directory
      this.#model = left.model
    }
    return cameBack
  }

  async #live(directory: string, into: string): Promise<number> {
    disk.watch(directory)
    this.#left = undefined
    let stepsLeft = this.#whole(this.#random() < 0.2 ? 30 : 600)
    disk.onStep = () => {
      if (stepsLeft-- === 0) this.#crash(into)
    }
    disk.fault = ({ path }) => {
      if (path.includes('lock') || path === directory || this.#random() >= this.#trouble.faults) return undefined
      return { code: this.#random() < 0.5 ? 'EIO' : 'ENOSPC', after: this.#whole(200) }
    }
    const journal = await this.#open(directory)
    if (journal === undefined) return 0
    const cameBack = this.#model.uses.size
    const calls: Promise<void>[] = []
    while (this.#left === undefined) {
      calls.push(this.#act(journal))
      if (this.#random() < 0.4) await Promise.all(calls.splice(0))
      else if (this.#random() < 0.5) await new Promise(setImmediate)
      if (disk.steps.length > 50 && this.#random() < 0.002) this.#crash(into)
    }
    await Promise.all(calls)
    const { appended, recovered, settled, pending } = journal.stats()
    expect(appended + recovered, 'the books').toBe(settled + pending)
    disk.rest()
    await journal.close()
    return cameBack
  }

  async #open(directory: string): Promise<FileJournal | undefined> {
    while (this.#left === undefined) {
      const journal = new FileJournal(directory, { segmentBytes: 4096, random: this.#random })
      try {
        const remains = await journal.open()
        const letters = await collect(journal.deadLetters())
        if (this.#left !== undefined) {
          await journal.close()
          return undefined
        }
        expect(this.#model.problems(remains, letters)).toEqual([])
        this.#model.restart(remains, letters)
        return journal
      } catch (error) {
        // A disk that fails now and then is no damage.
        if (!isSpillwayError(error, 'ERR_STORE') || !error.retryable || this.#trouble.faults === 0) throw error
        await journal.close()
      }
    }
    return undefined
  }

  #crash(into: string): void {
    this.#left = { directory: into, model: this.#model.copy() }
    if (this.#trouble.crash === 'kill') disk.imageAfterKill(into)
    else disk.imageAfterPowerFailure(into, this.#random)
  }

  #act(journal: FileJournal): Promise<void> {
    const open = [...this.#model.batches].filter(
      ([, { settled, buried }]) => settled === undefined && buried === undefined,
    )
    const [id, batch] = this.#oneOf(open.filter(([, { assigned }]) => assigned === 'done')) ?? []
    const chance = this.#random()
    if (chance < 0.5 || (id === undefined && chance < 0.6)) return this.#append(journal)
    if (chance < 0.72 || id === undefined || batch === undefined) return this.#assign(journal)
    if (chance < 0.94) return this.#settle(journal, id)
    if (chance < 0.96) return this.#bisect(journal, id)
    return chance < 0.99 ? this.#giveUp(journal, id) : this.#requeue(journal)
  }

  #append(journal: FileJournal): Promise<void> {
    const value = this.#nextValue++
    const metadata = { text: 'x'.repeat(this.#whole(this.#random() < 0.1 ? 3000 : 100)) }
    const entry: ModelUse = { event: use(value, { metadata }), appended: 'called' }
    this.#model.uses.set(value, entry)
    const appended = journal.append(entry.event).then((position) => {
      entry.position = position
    })
    return known(appended, (outcome) => {
      entry.appended = outcome
    })
  }

  #assign(journal: FileJournal): Promise<void> {
    const values = this.#model.loose.filter(() => this.#random() < 0.3).slice(0, 12)
    return values.length === 0 ? this.#append(journal) : this.#assignTo(journal, `batch-${this.#nextBatch++}`, values)
  }

  #assignTo(journal: FileJournal, id: string, values: readonly number[]): Promise<void> {
    const batch: ModelBatch = { values, assigned: 'called' }
    this.#model.batches.set(id, batch)
    return known(journal.assign(id, this.#model.positionsOf(values)), (outcome) => {
      batch.assigned = outcome
      // As if it had never been asked for: its uses are free for another one.
      if (outcome === 'refused') this.#model.batches.delete(id)
    })
  }

  #settle(journal: FileJournal, id: string): Promise<void> {
    const batch = this.#model.batches.get(id) as ModelBatch
    batch.settled = 'called'
    return known(journal.settle(id), (outcome) => {
      batch.settled = outcome
    })
  }

  async #bisect(journal: FileJournal, id: string): Promise<void> {
    const { values } = this.#model.batches.get(id) as ModelBatch
    if (values.length < 2 || this.#isBisected(id)) return
    const middle = values.length >> 1
    const halves = [values.slice(0, middle), values.slice(middle)]
    await Promise.all(halves.map((half, i) => this.#assignTo(journal, `${id}/${i}`, half)))
  }

  #isBisected(id: string): boolean {
    return this.#model.batches.has(`${id}/0`) || this.#model.batches.has(`${id}/1`)
  }

  async #giveUp(journal: FileJournal, id: string): Promise<void> {
    const batch = this.#model.batches.get(id) as ModelBatch
    if (this.#isBisected(id)) return
    batch.buried = 'called'
    if (this.#requeueing > 0) batch.requeued = 'unsure'
    const letter = {
      batchId: id,
      events: batch.values.map((value) => this.#model.uses.get(value)?.event as AcceptedUsage),
      error: new Error('no'),
    }
    await known(journal.deadLetter(letter), (outcome) => {
      batch.buried = outcome
    })
    if ((batch.buried as Outcome) === 'done') await this.#settle(journal, id)
  }

  #requeue(journal: FileJournal): Promise<void> {
    const dead = [...this.#model.batches.values()].filter(({ buried }) => buried !== undefined && buried !== 'refused')
    const sure = dead.filter(({ buried, requeued }) => buried === 'done' && requeued === undefined)
    for (const batch of dead) batch.requeued ??= 'unsure'
    this.#requeueing++
    const requeued = journal.requeue().then(() => undefined)
    return known(requeued, (outcome) => {
      this.#requeueing--
      for (const batch of sure) batch.requeued = outcome
    })
  }

  #whole(below: number): number {
    return Math.floor(this.#random() * below)
  }

  #oneOf<T>(items: readonly T[]): T | undefined {
    return items[this.#whole(items.length)]
  }
}

/** Tells what a caller learns of a call. */
function known(call: Promise<void>, learn: (outcome: Outcome) => void): Promise<void> {
  return call.then(
    () => learn('done'),
    (error) => learn(isSpillwayError(error) && error.outcomeUnknown !== false ? 'unsure' : 'refused'),
  )
}

const troubles: readonly Trouble[] = [
  { crash: 'kill', faults: 0 },
  { crash: 'power failure', faults: 0 },
  { crash: 'kill', faults: 0.03 },
  { crash: 'power failure', faults: 0.03 },
]

for (const trouble of troubles) {
  const { crash, faults } = trouble
  describe(`a ${crash} at any step${faults > 0 ? ', on a disk that fails now and then' : ''}`, () => {
    test.each(Array.from({ length: 4 }, (_, i) => `seed ${i}`))(
      'loses nothing and brings nothing back: %s',
      async (seed) => {
        const cameBack = await new Lives(`${seed} ${crash} ${faults}`, trouble).run(5)

        expect(cameBack).toBeGreaterThan(0)
        expect(directories.stillOpen()).toEqual([])
      },
    )
  })
}
