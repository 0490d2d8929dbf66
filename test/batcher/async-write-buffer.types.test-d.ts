import {
  AsyncWriteBuffer,
  type AsyncWriteBufferEvents,
  type AsyncWriteBufferStats,
  type BatchContext,
  type ClosableComponent,
  type CloseReport,
  type FlushReport,
} from 'spillway'
import { expectTypeOf } from 'vitest'

const merge = (old: number, value: number): number => old + value
const buffer = new AsyncWriteBuffer<string, number>(async () => undefined, { merge })

expectTypeOf(buffer.put).parameters.toEqualTypeOf<[key: string, value: number]>()
expectTypeOf(buffer.put('a', 1)).toEqualTypeOf<boolean>()
expectTypeOf(buffer.flush()).resolves.toEqualTypeOf<FlushReport>()
expectTypeOf(buffer.close()).resolves.toEqualTypeOf<CloseReport>()
expectTypeOf(buffer.close).parameter(0).toEqualTypeOf<{ timeoutMs?: number | undefined } | undefined>()
expectTypeOf(buffer.stats()).toEqualTypeOf<AsyncWriteBufferStats>()
expectTypeOf(buffer.stats().pendingKeys).toEqualTypeOf<number>()
expectTypeOf(buffer.name).toEqualTypeOf<string>()
expectTypeOf(buffer).toExtend<AsyncDisposable>()
expectTypeOf(buffer).toExtend<ClosableComponent<AsyncWriteBufferEvents<string, number>, AsyncWriteBufferStats>>()

// The key and the value are inferred from merge and the write function.
const inferred = new AsyncWriteBuffer((entries: ReadonlyMap<bigint, Date>) => void entries, { merge: (old) => old })
expectTypeOf(inferred.put).parameters.toEqualTypeOf<[key: bigint, value: Date]>()

new AsyncWriteBuffer<string, number>(
  (entries, context) => {
    expectTypeOf(entries).toEqualTypeOf<ReadonlyMap<string, number>>()
    expectTypeOf(context).toEqualTypeOf<BatchContext>()
    expectTypeOf(context.signal).toEqualTypeOf<AbortSignal>()
  },
  {
    merge,
    groupBy: (key) => {
      expectTypeOf(key).toEqualTypeOf<string>()
      return key.length
    },
    retry: {
      attempts: 3,
      retryable: (error) => {
        expectTypeOf(error).toEqualTypeOf<unknown>()
        return true
      },
    },
    maxWaitMs: undefined,
  },
)

buffer.on('failed', (event) => {
  expectTypeOf(event.entries).toEqualTypeOf<ReadonlyMap<string, number>>()
  expectTypeOf(event.error).toEqualTypeOf<unknown>()
})
buffer.on('dropped', ({ key, value, reason }) => {
  expectTypeOf(key).toEqualTypeOf<string>()
  expectTypeOf(value).toEqualTypeOf<number>()
  expectTypeOf(reason).toEqualTypeOf<'drop-newest' | 'drop-oldest'>()
})
expectTypeOf(buffer.on('written', () => undefined)).toEqualTypeOf<() => void>()

// @ts-expect-error merge is required
new AsyncWriteBuffer<string, number>(() => undefined, {})
// @ts-expect-error options are required
new AsyncWriteBuffer<string, number>(() => undefined)
// @ts-expect-error an overflow that there isn't
new AsyncWriteBuffer<string, number>(() => undefined, { merge, overflow: 'explode' })
// @ts-expect-error sizes are for AsyncBatcher
new AsyncWriteBuffer<string, number>(() => undefined, { merge, maxBatchBytes: 10 })
// @ts-expect-error a batch of merged writes is not halved
new AsyncWriteBuffer<string, number>(() => undefined, { merge, bisect: true })
// @ts-expect-error merge joins values of the buffer's type
new AsyncWriteBuffer<string, number>(() => undefined, { merge: (old: string) => old })
// @ts-expect-error the value's type
buffer.put('a', '1')
// @ts-expect-error the key's type
buffer.put(1, 1)
// @ts-expect-error no such event
buffer.on('exploded', () => undefined)
// @ts-expect-error events are facts, nobody changes them
buffer.on('written', (event) => (event.writes = 0))
// @ts-expect-error a stats snapshot is read only
buffer.stats().pending = 0
