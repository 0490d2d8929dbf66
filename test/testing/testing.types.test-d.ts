import type {
  BatchTracer,
  CacheStore,
  Clock,
  CounterStore,
  InstanceSource,
  LoadLease,
  LoadLock,
  LogSink,
  MultiLevelCacheOptions,
} from 'spillway'
import {
  batchTracerContract,
  type ContractCase,
  everyNth,
  FakeClock,
  type FaultCondition,
  type FaultMode,
  FaultProxy,
  FaultSwitch,
  faulty,
  flaky,
  instanceSourceContract,
  loadLockContract,
  logSinkContract,
  MemoryCacheStore,
  MemoryCounterStore,
  MemoryInstanceSource,
  MemoryLoadLock,
  MemoryLogSink,
  type MethodOf,
  outage,
  type SimulationError,
  type SimulationReport,
  simulate,
  slow,
} from 'spillway/testing'
import { expectTypeOf } from 'vitest'

const clock = new FakeClock()

// The clock
expectTypeOf(clock).toExtend<Clock>()
expectTypeOf(clock.until(7)).toEqualTypeOf<Promise<number>>()
expectTypeOf(clock.until(Promise.resolve('a'), { maxMs: 1 })).toEqualTypeOf<Promise<string>>()
expectTypeOf(clock.step()).toEqualTypeOf<Promise<boolean>>()

// What stands in for adapters
expectTypeOf<MemoryLogSink>().toExtend<LogSink>()
expectTypeOf<MemoryLoadLock>().toExtend<LoadLock>()
expectTypeOf<MemoryInstanceSource<{ id: string }>>().toExtend<InstanceSource<{ id: string }>>()
expectTypeOf<MemoryLoadLock>().toExtend<NonNullable<MultiLevelCacheOptions<string>['loadLock']>>()
expectTypeOf(new MemoryLoadLock().acquire('a', { waitMs: 1, signal: AbortSignal.abort() })).toEqualTypeOf<
  Promise<LoadLease | undefined>
>()

// Contracts
expectTypeOf(logSinkContract({ place: () => ({ open: () => new MemoryLogSink(), read: () => '' }) })).toEqualTypeOf<
  readonly ContractCase[]
>()
expectTypeOf(loadLockContract({ open: async () => new MemoryLoadLock(), elapse: async () => undefined })).toEqualTypeOf<
  readonly ContractCase[]
>()
instanceSourceContract<string>({
  place: () => ({ open: () => new MemoryInstanceSource<string>(), change: () => undefined, idOf: (one) => one }),
  elapse: () => undefined,
})
// @ts-expect-error: a place says how instances change
instanceSourceContract<string>({ place: () => ({ open: () => new MemoryInstanceSource<string>() }), elapse: () => 1 })
batchTracerContract({ open: (): BatchTracer => ({ enter: () => 1, run: (_, attempt) => attempt() }) })
// @ts-expect-error: a sink that can't write is none
logSinkContract({ place: () => ({ open: () => ({ close: () => undefined }), read: () => '' }) })

// Faults
const half = flaky((a: number, b: string) => `${a}${b}`, { failureRate: 0.5, when: everyNth(2) })
expectTypeOf(half).toEqualTypeOf<(a: number, b: string) => Promise<string>>()
expectTypeOf(outage({ toMs: 1 })).toEqualTypeOf<FaultCondition>()
// @ts-expect-error: how slow?
slow(() => 1, {})
// @ts-expect-error: an outage ends
outage({ fromMs: 1 })

const power = new FaultSwitch()
expectTypeOf(power.mode).toEqualTypeOf<FaultMode>()
expectTypeOf(power.wrap((n: number) => n)).toEqualTypeOf<(n: number) => Promise<number>>()
// @ts-expect-error: no such mode
power.turn('broken')

const counters = faulty(new MemoryCounterStore(), {
  power,
  faults: { getMany: { kind: 'fail' }, '*': [{ kind: 'drop' }] },
})
expectTypeOf(counters).toExtend<CounterStore>()
expectTypeOf(faulty(new MemoryCacheStore(), { clock })).toExtend<CacheStore>()
// @ts-expect-error: no such method
faulty(new MemoryCounterStore(), { faults: { getmany: { kind: 'fail' } } })
// @ts-expect-error: what is no method has no faults
faulty(new MemoryCounterStore(), { faults: { idempotent: { kind: 'fail' } } })
// @ts-expect-error: no such fault
faulty(new MemoryCounterStore(), { faults: { getMany: { kind: 'slower' } } })
expectTypeOf<MethodOf<CounterStore>>().toEqualTypeOf<'increment' | 'add' | 'getMany'>()
expectTypeOf<MethodOf<LogSink>>().toEqualTypeOf<'write' | 'writeSync' | 'reopen' | 'close'>()

const proxy = new FaultProxy({ port: 6379 })
expectTypeOf(proxy).toExtend<AsyncDisposable>()
expectTypeOf(proxy.start()).toEqualTypeOf<Promise<number>>()
proxy.set({ latencyMs: 1, toClient: { frozen: true } })
// @ts-expect-error: the server's port must be known
new FaultProxy({})
// @ts-expect-error: no such mode
proxy.set({ mode: 'frozen' })

// Simulations
expectTypeOf(simulate(async ({ seed }) => String(seed))).toEqualTypeOf<Promise<SimulationReport<string>>>()
simulate(({ pick, below, happens, sleep, log, clock }) => {
  expectTypeOf(pick(['a', 'b'])).toEqualTypeOf<string>()
  expectTypeOf(below(3)).toEqualTypeOf<number>()
  expectTypeOf(happens(0.5)).toEqualTypeOf<boolean>()
  expectTypeOf(sleep(1)).toEqualTypeOf<Promise<void>>()
  expectTypeOf(log('a', 1)).toEqualTypeOf<void>()
  expectTypeOf(clock).toEqualTypeOf<FakeClock>()
})
// @ts-expect-error: seeds are numbers and strings
simulate(() => 1, { seeds: [true] })
expectTypeOf<SimulationError['seed']>().toEqualTypeOf<number | string>()
