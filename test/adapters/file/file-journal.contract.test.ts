import { FileJournal, type FileJournalOptions } from 'spillway/file'
import { type UsageJournalPlace, usageJournalContract } from 'spillway/testing'
import { afterAll, describe, test } from 'vitest'
import { collect, Directories } from './support/directories.js'

const directories = new Directories()
afterAll(() => directories[Symbol.asyncDispose]())

/** A directory; a crash leaves it to a copy, since this process can't die. */
async function place(options: FileJournalOptions): Promise<UsageJournalPlace> {
  let directory = await directories.make()
  let journal = new FileJournal(directory, options)
  return {
    next: () => {
      journal = new FileJournal(directory, options)
      return journal
    },
    crash: async () => {
      directory = await directories.crashed(directory)
      await journal.close()
    },
    deadLetters: () => collect(new FileJournal(directory).deadLetters()),
  }
}

for (const options of [{}, { sync: false }, { segmentBytes: 4096 }] satisfies FileJournalOptions[]) {
  describe(`FileJournal with ${JSON.stringify(options)} keeps the contract of usage journals`, () => {
    for (const { name, run } of usageJournalContract({ place: () => place(options) })) test(name, run)
  })
}
