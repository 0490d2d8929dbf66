import { AsyncBatcher, AsyncWriteBuffer } from 'spillway'

/**
 * Uses every feature of the batching primitives for a while, as a service does that has been up for some time. Both
 * primitives stand on one engine, so the compiler can no longer assume there that it only ever sees one kind of entry.
 */
export async function useEveryFeature(turns: number): Promise<void> {
  const answer = async (items: { id: number }[]): Promise<number[]> => items.map(({ id }) => id)
  const batchers = [
    new AsyncBatcher(answer),
    new AsyncBatcher(answer, { keyOf: ({ id }) => id % 10 }),
    new AsyncBatcher(answer, { groupBy: ({ id }) => id % 3 }),
    new AsyncBatcher(answer, { sizeOf: ({ id }) => id, maxBatchBytes: 1000 }),
    new AsyncBatcher(answer, { timeoutMs: 1000, eager: false, maxWaitMs: 1, concurrency: 1 }),
  ]
  const sum = (old: number, value: number): number => old + value
  const buffers = [
    new AsyncWriteBuffer<string, number>(async () => undefined, { merge: sum }),
    new AsyncWriteBuffer<string, number>(async () => undefined, { merge: sum, concurrency: 4, eager: true }),
    new AsyncWriteBuffer<number, number>(async () => undefined, { merge: sum, groupBy: (key) => key % 3 }),
  ] as const
  for (let turn = 0; turn < turns; turn++) {
    const waits: Promise<unknown>[] = []
    for (const batcher of batchers) {
      for (let id = 0; id < 50; id++)
        waits.push(batcher.add({ id }, id % 5 === 0 ? { signal: new AbortController().signal } : undefined))
      waits.push(batcher.addMany([{ id: 1 }, { id: 2 }]))
    }
    for (let i = 0; i < 200; i++) {
      buffers[0].put(`key:${i % 50}`, i)
      buffers[1].put(`key:${i % 50}`, i)
      buffers[2].put(i % 50, i)
    }
    for (const component of [...batchers, ...buffers]) waits.push(component.flush())
    await Promise.all(waits)
  }
  await Promise.all([...batchers, ...buffers].map((component) => component.close()))
}
