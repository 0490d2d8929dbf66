import type { AcceptedUsage } from 'spillway'
import {
  type JournalOperation,
  MemoryUsageJournal,
  type UsageJournalHarness,
  usageJournalContract,
} from 'spillway/testing'
import { describe, expect, test } from 'vitest'

const event: AcceptedUsage = { userId: 1, quotaType: 'api', value: 1, timestamp: 1_790_000_000_000, period: 'total' }

function harnessOf(first: () => MemoryUsageJournal): UsageJournalHarness {
  return {
    place: () => {
      let journal = first()
      return {
        next: () => {
          journal = journal.reopen()
          return journal
        },
        crash: () => undefined,
        deadLetters: async () => journal.deadLetters,
      }
    },
  }
}

describe('MemoryUsageJournal keeps the contract of usage journals', () => {
  for (const { name, run } of usageJournalContract(harnessOf(() => new MemoryUsageJournal()))) test(name, run)
})

describe('the contract of usage journals', () => {
  /** Runs the contract against a broken journal, and says which cases fail. */
  const failures = async (broken: new () => MemoryUsageJournal): Promise<string[]> => {
    const failed: string[] = []
    for (const { name, run } of usageJournalContract(harnessOf(() => new broken()))) {
      await run().catch(() => failed.push(name))
    }
    return failed
  }

  /** A journal whose later lives are broken in the same way. */
  abstract class Broken extends MemoryUsageJournal {
    override reopen(): MemoryUsageJournal {
      return Object.setPrototypeOf(super.reopen(), Object.getPrototypeOf(this))
    }
  }

  test('fails a journal that forgets what is in batches', async () => {
    class Forgetful extends Broken {
      override async open() {
        return { ...(await super.open()), batches: [] }
      }
    }

    expect(await failures(Forgetful)).toEqual(
      expect.arrayContaining([
        'a batch that was assigned comes back with its id and its events in their order, after a crash',
        'the latest assignment of an event counts, and a batch that has none left is gone',
      ]),
    )
  })

  test('fails a journal that settles nothing', async () => {
    class Hoarding extends Broken {
      override async settle() {}
    }

    expect(await failures(Hoarding)).toContain("a batch that was settled doesn't come back, after close")
  })

  test('fails a journal that begins its positions anew', async () => {
    class Restarting extends Broken {
      declare count: number | undefined
      override async append(event: AcceptedUsage) {
        await super.append(event)
        this.count = (this.count ?? 0) + 1
        return this.count
      }
    }

    expect(await failures(Restarting)).toContain('positions go on growing over lives, whatever was settled')
  })
})

describe('MemoryUsageJournal', () => {
  test('gives what its data are to the next instance, and nothing more to the one before', async () => {
    const first = new MemoryUsageJournal()
    await first.open()
    await first.append(event)
    let answered = false

    const second = first.reopen()
    void first.append(event).then(() => {
      answered = true
    })
    const { events } = await second.open()
    await second.append(event)

    expect(events).toHaveLength(1)
    expect(second.pending).toBe(2)
    expect(answered).toBe(false)
  })

  test('keeps nothing of a call that fails before it is done, and all of one that fails after', async () => {
    let failing: 'before' | 'after' | undefined
    const fail = (when: 'before' | 'after') => (operation: JournalOperation) => {
      if (failing === when && operation === 'append') throw new Error(`${when} ${operation}`)
    }
    const journal = new MemoryUsageJournal({ before: fail('before'), after: fail('after') })
    await journal.open()

    failing = 'before'
    await expect(journal.append(event)).rejects.toThrow('before append')
    expect(journal.pending).toBe(0)
    failing = 'after'
    await expect(journal.append(event)).rejects.toThrow('after append')
    expect(journal.pending).toBe(1)
    failing = undefined
    await expect(journal.append(event)).resolves.toBe(2)
  })

  test('hangs with its disk, and what hung at a crash is not kept', async () => {
    let release = (): void => {}
    const hanging = new Promise<void>((resolve) => {
      release = resolve
    })
    const journal = new MemoryUsageJournal({
      before: (operation) => (operation === 'append' ? hanging : undefined),
    })
    await journal.open()
    let answered = 0
    for (const call of [journal.append(event), journal.settle('any')]) void call.then(() => answered++)

    const next = journal.reopen()
    release()
    const remains = await next.open()

    expect(remains).toEqual({ batches: [], events: [] })
    expect(answered).toBe(0)
  })

  test('does calls in their order, however long each takes', async () => {
    const waits: (() => void)[] = []
    const journal = new MemoryUsageJournal({
      before: (operation) => (operation === 'append' ? new Promise<void>((resolve) => waits.push(resolve)) : undefined),
    })
    await journal.open()

    const done: number[] = []
    const appends = [1, 2, 3].map((value) =>
      journal.append({ ...event, value }).then((position) => done.push(position)),
    )
    for (let i = 0; i < 3; i++) {
      while (waits[i] === undefined) await Promise.resolve()
      waits[i]?.()
    }
    await Promise.all(appends)

    expect(done).toEqual([1, 2, 3])
  })
})

test('MemoryUsageJournal refuses wrong options', () => {
  const journal = new MemoryUsageJournal()
  const refusal = expect.objectContaining({ name: 'OptionError' })

  for (const options of [null, { before: 1 }, { after: 'later' }] as never[]) {
    expect(() => new MemoryUsageJournal(options)).toThrow(refusal)
    expect(() => journal.reopen(options)).toThrow(refusal)
  }
})
