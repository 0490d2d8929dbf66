import type { Invalidation } from 'spillway'
import { FakeClock, invalidationBusContract, MemoryInvalidationBus } from 'spillway/testing'
import { describe, expect, onTestFinished, test, vi } from 'vitest'

describe('MemoryInvalidationBus keeps the contract of invalidation buses', () => {
  const clock = new FakeClock()
  const bus = new MemoryInvalidationBus({ clock })
  const harness = { open: () => bus, elapse: (ms: number) => clock.advance(ms) }
  for (const { name, run } of invalidationBusContract(harness)) test(name, run)
})

describe('the contract of invalidation buses', () => {
  /** Runs the contract against a broken bus, and says which cases fail. */
  const failures = async (clock: FakeClock, bus: MemoryInvalidationBus): Promise<string[]> => {
    const failed: string[] = []
    for (const { name, run } of invalidationBusContract({ open: () => bus, elapse: (ms) => clock.advance(ms) })) {
      await run().catch(() => failed.push(name))
    }
    return failed
  }

  test('fails a bus that carries to whoever published', async () => {
    class Echoing extends MemoryInvalidationBus {
      override connect(listener: Parameters<MemoryInvalidationBus['connect']>[0]) {
        const link = super.connect(listener)
        const publish = (lot: readonly Invalidation[]): void => {
          link.publish(lot)
          clock.defer(() => listener.onInvalidations(lot))
        }
        return { publish, flush: () => link.flush(), close: () => link.close() }
      }
    }
    const clock = new FakeClock()

    expect(await failures(clock, new Echoing({ clock }))).toContain(
      'others hear in the order of publishing, and oneself does not',
    )
  })

  test('fails a bus that goes on telling a closed link', async () => {
    class Deaf extends MemoryInvalidationBus {
      override connect(listener: Parameters<MemoryInvalidationBus['connect']>[0]) {
        const link = super.connect(listener)
        return { publish: link.publish.bind(link), flush: () => link.flush(), close: () => undefined }
      }
    }
    const clock = new FakeClock()

    expect(await failures(clock, new Deaf({ clock }))).toContain(
      'a closed link hears and tells nothing, and the others go on',
    )
  })
})

describe('MemoryInvalidationBus', () => {
  const fail = (): never => {
    throw new Error('boom')
  }
  const scene = () => {
    const clock = new FakeClock()
    const bus = new MemoryInvalidationBus({ clock })
    const heard: string[] = []
    const sender = bus.connect({ onInvalidations: () => undefined, onGap: () => undefined })
    const receiver = bus.connect({
      onInvalidations: (all) => heard.push(...all.map((one) => (one.kind === 'tag' ? one.tag : one.kind))),
      onGap: () => heard.push('gap'),
    })
    return { clock, bus, heard, sender, receiver }
  }

  test('loses what is published while it is interrupted, and reports a gap when it carries again', async () => {
    const { clock, bus, heard, sender } = scene()
    sender.publish([{ kind: 'tag', tag: 'before' }])
    bus.interrupt()
    sender.publish([{ kind: 'tag', tag: 'lost' }])
    await clock.advance(0)
    expect(heard).toEqual(['gap', 'before'])

    bus.restore()
    sender.publish([{ kind: 'tag', tag: 'after' }])
    await clock.advance(0)

    expect(heard).toEqual(['gap', 'before', 'gap', 'after'])
  })

  test('says nothing to a link that comes while it is interrupted, until it is restored', async () => {
    const { clock, bus } = scene()
    const heard: string[] = []
    bus.interrupt()
    bus.connect({ onInvalidations: () => heard.push('told'), onGap: () => heard.push('gap') })
    await clock.advance(0)
    expect(heard).toEqual([])

    bus.restore()
    bus.restore()
    await clock.advance(0)

    expect(heard).toEqual(['gap'])
  })

  test.each([
    ['throws', (): void => fail()],
    ['rejects', async (): Promise<void> => fail()],
  ])('a listener that %s keeps no other from hearing, and is warned of', async (_, failing) => {
    const warn = vi.spyOn(process, 'emitWarning').mockImplementation(() => undefined)
    onTestFinished(() => warn.mockRestore())
    const clock = new FakeClock()
    const bus = new MemoryInvalidationBus({ clock })
    const heard: string[] = []
    const sender = bus.connect({ onInvalidations: failing, onGap: () => undefined })
    bus.connect({ onInvalidations: failing, onGap: () => undefined })
    bus.connect({ onInvalidations: () => heard.push('told'), onGap: () => undefined })

    sender.publish([{ kind: 'tag', tag: 'a' }])
    await clock.advance(0)

    expect(heard).toEqual(['told'])
    expect(warn).toHaveBeenCalledOnce()
  })

  test('refuses a listener that is none', () => {
    const bus = new MemoryInvalidationBus()

    expect(() => bus.connect(undefined as never)).toThrow('listener must have a method onInvalidations')
    expect(() => bus.connect({ onInvalidations: () => undefined } as never)).toThrow(
      'listener must have a method onGap, got',
    )
  })
})
