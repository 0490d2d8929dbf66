import { LoadBalancer } from 'spillway'
import { FakeClock, MemoryInstanceSource } from 'spillway/testing'
import { describe, expect, onTestFinished, test, vi } from 'vitest'

function scene() {
  const clock = new FakeClock()
  const source = new MemoryInstanceSource<{ id: string }>([{ id: 'a' }], { clock })
  const told: string[] = []
  const controller = new AbortController()
  const watch = (): void =>
    source.watch((list) => told.push(list.map(({ id }) => id).join()), {
      signal: controller.signal,
      onError: (error) => told.push(String(error)),
    })
  return { clock, source, told, watch, stop: () => controller.abort() }
}

describe('MemoryInstanceSource', () => {
  test('tells at the end of the turn, of several sets in one turn the last', async () => {
    const { clock, source, told, watch } = scene()
    watch()
    source.set([{ id: 'b' }])
    source.set([{ id: 'c' }])
    expect(told).toEqual([])

    await clock.advance(0)

    expect(told).toEqual(['c'])
  })

  test('tells of a failure whoever watches and whoever comes, until it is healed', async () => {
    const { clock, source, told, watch } = scene()
    source.fail('away')
    watch()
    await clock.advance(0)
    source.heal()
    source.heal()
    await clock.advance(0)
    source.fail('again')
    source.set([])
    await clock.advance(0)

    expect(told).toEqual(['away', 'a', ''])
  })

  test('counts who watches, and keeps a copy of what it is given', async () => {
    const { clock, source, told, watch, stop } = scene()
    const list = [{ id: 'x' }]
    source.set(list)
    list.length = 0
    watch()
    watch()
    await clock.advance(0)
    expect([source.watches, told]).toEqual([2, ['x', 'x']])

    stop()

    expect(source.watches).toBe(0)
  })

  test('lets no callback that throws or rejects keep others from hearing, and warns', async () => {
    const warn = vi.spyOn(process, 'emitWarning').mockImplementation(() => undefined)
    onTestFinished(() => warn.mockRestore())
    const { clock, source, told, watch } = scene()
    const context = { signal: new AbortController().signal, onError: () => undefined }
    source.watch(() => {
      throw new Error('boom')
    }, context)
    source.watch(async () => Promise.reject(new Error('boom')), context)
    watch()

    await clock.advance(0)

    expect(told).toEqual(['a'])
    expect(warn).toHaveBeenCalledTimes(2)
  })

  test('is what a LoadBalancer follows', async () => {
    const { clock, source } = scene()
    const balancer = new LoadBalancer(source, { clock })
    await clock.until(balancer.start())
    source.set([{ id: 'b' }])
    await clock.advance(0)

    const lease = balancer.pick()

    expect(lease.instance.id).toBe('b')
    lease.release()
    await clock.until(balancer.close())
    expect(source.watches).toBe(0)
  })

  const context = { signal: new AbortController().signal, onError: () => undefined }
  test.each([
    ['instances', () => new MemoryInstanceSource('a' as never), 'instances must be a list'],
    ['instances', () => new MemoryInstanceSource().set(undefined as never), 'instances must be a list'],
    ['options', () => new MemoryInstanceSource([], 7 as never), 'options must be an object'],
    ['onList', () => new MemoryInstanceSource().watch(1 as never, context), 'onList must be a function'],
    ['context', () => new MemoryInstanceSource().watch(() => 1, undefined as never), 'context must be an object'],
    ['signal', () => new MemoryInstanceSource().watch(() => 1, { ...context, signal: 1 } as never), 'signal must be'],
    [
      'onError',
      () => new MemoryInstanceSource().watch(() => 1, { ...context, onError: 1 } as never),
      'onError must be',
    ],
  ])('refuses a wrong %s at once', (field, make, message) => {
    expect(make).toThrow(expect.objectContaining({ code: 'ERR_OPTION', field }))
    expect(make).toThrow(message)
  })
})
