import type { LoadLease, LoadLock } from 'spillway'
import { type ContractCase, FakeClock, loadLockContract, MemoryLoadLock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import { failingCases } from './support/failing-cases.js'

const leaseMs = 300

describe('MemoryLoadLock keeps the contract of load locks', () => {
  const clock = new FakeClock()
  const lock = new MemoryLoadLock({ clock })
  for (const { name, run } of loadLockContract({ open: () => lock, elapse: (ms) => clock.advance(ms) })) test(name, run)
})

describe('MemoryLoadLock whose leases end keeps the contract of load locks', () => {
  const clock = new FakeClock()
  const lock = new MemoryLoadLock({ clock, leaseMs })
  const harness = { open: () => lock, elapse: (ms: number) => clock.advance(ms), leaseMs }
  for (const { name, run } of loadLockContract(harness)) test(name, run)
})

type Acquire = LoadLock['acquire']
/** What a broken lock does otherwise than the one behind it. */
type Broken = (memory: MemoryLoadLock, clock: FakeClock) => Acquire

const free = (waited = false): LoadLease => ({ waited, release: () => undefined })
const unstoppable = (): AbortSignal => new AbortController().signal
const changed =
  (change: (lease: LoadLease) => LoadLease): Broken =>
  (memory) =>
  async (key, options) => {
    const lease = await memory.acquire(key, options)
    return lease && change(lease)
  }

/** Locks that are broken in one way each, with a case that must tell. */
const mutants: readonly (readonly [string, Broken, string])[] = [
  [
    'always says that it waited',
    changed(({ release }) => ({ waited: true, release })),
    'a key that is free is had at once, without having waited',
  ],
  ['gives everybody everything', () => async () => free(), 'a key that somebody has is not had by another'],
  [
    'lets who has a key have it again',
    (memory) => {
      const [first] = [free()]
      return async (key, options) => (await memory.acquire(key, { ...options, waitMs: 0 })) ?? first
    },
    'of many that ask at once one gets it',
  ],
  [
    'takes nothing back',
    changed(({ waited }) => ({ waited, release: () => undefined })),
    'a key that was given back is free again',
  ],
  ['has one key', (memory) => (_, options) => memory.acquire('all', options), 'keys are apart, and are any text'],
  [
    'cuts keys at a colon',
    (memory) => (key, options) => memory.acquire(key.split(':').slice(0, 2).join(':'), options),
    'keys are apart, and are any text',
  ],
  [
    'gives back whoever has the key by then',
    (memory) => {
      const leases = new Map<string, LoadLease>()
      return async (key, options) => {
        const lease = await memory.acquire(key, options)
        if (lease === undefined) return undefined
        leases.set(key, lease)
        return { waited: lease.waited, release: () => leases.get(key)?.release() }
      }
    },
    'giving back twice takes it from nobody',
  ],
  [
    'never says that it waited',
    changed(({ release }) => ({ waited: false, release })),
    'who waits gets it when it is given back, and is told that it waited',
  ],
  [
    'waits for nobody',
    (memory) => (key, options) => memory.acquire(key, { ...options, waitMs: 0 }),
    'all that wait get it in the end, one at a time',
  ],
  [
    'waits without an end',
    (memory) => (key, options) => memory.acquire(key, { ...options, waitMs: options.waitMs && 2_000_000_000 }),
    'who waits in vain is told so when the time is over',
  ],
  [
    'goes on waiting for who was told that it waited in vain',
    (memory, clock) => (key, options) =>
      Promise.race([
        memory.acquire(key, { ...options, waitMs: options.waitMs && options.waitMs + 1000 }),
        new Promise<undefined>((resolve) => void clock.setTimer(() => resolve(undefined), options.waitMs + 1)),
      ]),
    'who has waited in vain does not get it later',
  ],
  [
    'takes no notice of a signal while it waits',
    (memory) => (key, options) => memory.acquire(key, { ...options, signal: unstoppable() }),
    'who gives up while it waits is let go, and does not get it later',
  ],
  [
    'goes on waiting for who has given up',
    (memory) => (key, options) =>
      new Promise((resolve, reject) => {
        options.signal.addEventListener('abort', () => reject(options.signal.reason))
        memory.acquire(key, { ...options, signal: unstoppable() }).then(resolve, reject)
      }),
    'who gives up while it waits is let go, and does not get it later',
  ],
  [
    'takes no notice of a signal that has aborted already',
    (memory) =>
      (key, { waitMs, signal }) =>
        memory.acquire(key, { waitMs, signal: signal.aborted ? unstoppable() : signal }),
    'a signal that has aborted already gets nothing',
  ],
  [
    'gives back what it gave when the signal aborts later',
    (memory) => async (key, options) => {
      const lease = await memory.acquire(key, options)
      options.signal.addEventListener('abort', () => lease?.release())
      return lease
    },
    'a signal that aborts later takes nothing away',
  ],
  [
    'keeps what a dead holder had',
    (_, clock) => {
      const endless = new MemoryLoadLock({ clock })
      return (key, options) => endless.acquire(key, options)
    },
    'what a dead holder had is free after its lease',
  ],
]

describe('the contract of load locks', () => {
  const casesOf = (broken: Broken): readonly ContractCase[] => {
    const clock = new FakeClock()
    const acquire = broken(new MemoryLoadLock({ clock, leaseMs }), clock)
    return loadLockContract({ open: () => ({ acquire }), elapse: (ms) => clock.advance(ms), leaseMs })
  }
  const sound: Broken = (memory) => (key, options) => memory.acquire(key, options)

  test.each(mutants)('fails a lock that %s', async (_, broken, name) => {
    expect(await failingCases(casesOf(broken).filter((one) => one.name === name))).toEqual([name])
  })

  test('fails no lock that is sound', async () => {
    expect(await failingCases(casesOf(sound))).toEqual([])
  })

  test('has no case that no broken lock fails', () => {
    const names = casesOf(sound).map(({ name }) => name)

    expect(names.filter((name) => !mutants.some(([, , told]) => told === name))).toEqual([])
  })
})
