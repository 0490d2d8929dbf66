import { AsyncLocalStorage } from 'node:async_hooks'
import { type InstanceSource, LoadBalancer } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { describe, expect, test } from 'vitest'
import {
  codeOf,
  expectBooks,
  type Node,
  nodes,
  pickIds,
  reasonOf,
  statesOf,
  tally,
  thrownBy,
} from './support/balancers.js'

/** A list function whose every call the test answers. */
class Registry {
  readonly calls: { signal: AbortSignal; answer: (list: readonly Node[]) => void; fail: (error: unknown) => void }[] =
    []

  readonly list = ({ signal }: { signal: AbortSignal }): Promise<readonly Node[]> =>
    new Promise((answer, fail) => {
      this.calls.push({ signal, answer, fail })
    })

  call(index: number): Registry['calls'][number] {
    const call = this.calls[index]
    if (call === undefined) throw new Error(`there is no call ${index}`)
    return call
  }
}

const ids = (balancer: LoadBalancer<Node>): string[] => balancer.instances().map(({ instance }) => instance.id)

describe('a function that lists', () => {
  test('nothing is asked before start, and a pick says so', async () => {
    const clock = new FakeClock()
    const registry = new Registry()
    const balancer = new LoadBalancer(registry.list, { name: 'api', clock })

    const error = thrownBy(() => balancer.pick())

    expect(codeOf(error)).toBe('ERR_NO_INSTANCE')
    expect((error as Error).message).toBe('api has no list of instances yet: await start() first')
    expect(registry.calls).toHaveLength(0)
    expect(clock.pending).toBe(0)
    expect(expectBooks(balancer)).toMatchObject({ offered: 1, rejected: 1 })
  })

  test('start asks once, however often it is called, and resolves with the first list', async () => {
    const clock = new FakeClock()
    const registry = new Registry()
    const balancer = new LoadBalancer(registry.list, { clock })
    const starts = [balancer.start(), balancer.start()]

    registry.call(0).answer(nodes('a', 'b'))
    await Promise.all(starts)
    await balancer.start()

    expect(registry.calls).toHaveLength(1)
    expect(tally(pickIds(balancer, 4))).toEqual({ a: 2, b: 2 })
    await balancer.close()
    expect(clock.pending).toBe(0)
  })

  test('the list is asked for again behind the callers, one call at a time', async () => {
    const clock = new FakeClock()
    const registry = new Registry()
    const balancer = new LoadBalancer(registry.list, { clock, refreshMs: 1000, refreshTimeoutMs: 10_000 })
    const started = balancer.start()
    registry.call(0).answer(nodes('a'))
    await started

    await clock.advance(999)
    expect(registry.calls).toHaveLength(1)
    await clock.advance(1)
    expect(registry.calls).toHaveLength(2)
    await clock.advance(5000)
    expect(registry.calls).toHaveLength(2)
    registry.call(1).answer(nodes('a', 'b'))
    await clock.advance(0)

    expect(ids(balancer)).toEqual(['a', 'b'])
    await clock.advance(1000)
    expect(registry.calls).toHaveLength(3)
    await balancer.close()
    expect(registry.call(2).signal.aborted).toBe(true)
    expect(clock.pending).toBe(0)
  })

  test('start rejects with what went wrong, and the list comes all the same later', async () => {
    const clock = new FakeClock()
    const registry = new Registry()
    const balancer = new LoadBalancer(registry.list, { clock, refreshMs: 1000 })
    const failures: unknown[] = []
    balancer.on('refreshFailed', ({ error }) => failures.push(error))
    const started = balancer.start()
    const down = new Error('registry is down')

    registry.call(0).fail(down)

    expect(await reasonOf(started)).toBe(down)
    expect(failures).toEqual([down])
    await clock.advance(1000)
    registry.call(1).answer(nodes('a'))
    await clock.advance(0)
    expect(pickIds(balancer, 1)).toEqual(['a'])
    expect(balancer.stats()).toMatchObject({ refreshes: 1, refreshFailures: 1 })
    await balancer.close()
    expect(clock.pending).toBe(0)
  })

  test('a failed start asks at once when it is called again', async () => {
    const clock = new FakeClock()
    const registry = new Registry()
    const balancer = new LoadBalancer(registry.list, { clock })
    const first = balancer.start()
    registry.call(0).fail(new Error('down'))
    await reasonOf(first)

    const second = balancer.start()
    registry.call(1).answer(nodes('a'))

    await second
    expect(ids(balancer)).toEqual(['a'])
    await balancer.close()
    expect(clock.pending).toBe(0)
  })

  test('the list of before stays when a refresh fails', async () => {
    const clock = new FakeClock()
    const answers: (() => Promise<readonly Node[]>)[] = [
      async () => nodes('a', 'b'),
      async () => {
        throw new Error('down')
      },
      () => {
        throw new Error('down at once')
      },
      async () => [{ id: 'c' }, { id: 7 as unknown as string }],
      async () => [{ id: 'c', weight: -1 }],
      async () => [{ id: 'c', weight: Number.NaN }],
      async () => 'nonsense' as unknown as Node[],
    ]
    const balancer = new LoadBalancer(() => (answers.shift() as () => Promise<readonly Node[]>)(), { clock })
    await balancer.start()

    const reasons: unknown[] = []
    for (let turn = 0; turn < 6; turn++) reasons.push(await reasonOf(balancer.refresh()))

    expect(reasons.map((reason) => (reason as Error).message)).toEqual([
      'down',
      'down at once',
      'instances[1].id must be a string that is not empty, got 7 (number)',
      'instances[0].weight must be a finite number of 0 or more, got -1 (number)',
      'instances[0].weight must be a finite number of 0 or more, got NaN (number)',
      'instances must be an array, got "nonsense" (string)',
    ])
    expect(ids(balancer)).toEqual(['a', 'b'])
    expect(balancer.stats()).toMatchObject({ refreshes: 1, refreshFailures: 6 })
    await balancer.close()
  })

  test('a call that takes too long is given up, and what it still says comes too late', async () => {
    const clock = new FakeClock()
    const registry = new Registry()
    const balancer = new LoadBalancer(registry.list, { name: 'api', clock, refreshMs: 1000, refreshTimeoutMs: 300 })
    const started = balancer.start()

    await clock.advance(300)

    const error = await reasonOf(started)
    expect(error).toMatchObject({ code: 'ERR_TIMEOUT', message: 'api: a refresh took longer than 300 ms' })
    expect(registry.call(0).signal.aborted).toBe(true)
    await clock.advance(1000)
    registry.call(1).answer(nodes('new'))
    await clock.advance(0)
    registry.call(0).answer(nodes('late'))
    await clock.advance(0)
    expect(ids(balancer)).toEqual(['new'])
    await balancer.close()
    expect(clock.pending).toBe(0)
  })

  test('a refresh during another one gets a list that was asked for after it', async () => {
    const clock = new FakeClock()
    const registry = new Registry()
    const balancer = new LoadBalancer(registry.list, { clock })
    const started = balancer.start()
    const refreshes = [balancer.refresh(), balancer.refresh()]
    let refreshed = false
    void Promise.all(refreshes).then(() => {
      refreshed = true
    })

    registry.call(0).answer(nodes('old'))
    await started
    await clock.advance(0)

    expect(refreshed).toBe(false)
    expect(registry.calls).toHaveLength(2)
    registry.call(1).answer(nodes('new'))
    await Promise.all(refreshes)
    expect(ids(balancer)).toEqual(['new'])
    await balancer.close()
  })

  test('an empty list is believed when the next one is empty too, and an error in between says nothing', async () => {
    const clock = new FakeClock()
    const answers: (() => readonly Node[])[] = [
      () => nodes('a', 'b'),
      () => [],
      () => nodes('a', 'b'),
      () => [],
      () => {
        throw new Error('down')
      },
      () => [],
    ]
    const balancer = new LoadBalancer(async () => (answers.shift() as () => readonly Node[])(), { clock })
    const doubted: number[] = []
    balancer.on('doubted', ({ instances }) => doubted.push(instances))
    await balancer.start()

    for (const kept of [2, 2, 2]) {
      await balancer.refresh()
      expect(ids(balancer)).toHaveLength(kept)
    }
    await reasonOf(balancer.refresh())
    expect(ids(balancer)).toHaveLength(2)
    await balancer.refresh()

    expect(ids(balancer)).toEqual([])
    expect(doubted).toEqual([2, 2])
    expect(codeOf(thrownBy(() => balancer.pick()))).toBe('ERR_NO_INSTANCE')
    await balancer.close()
  })

  test('an empty first list is one', async () => {
    const balancer = new LoadBalancer<Node>(async () => [], { clock: new FakeClock() })

    await balancer.start()

    expect(ids(balancer)).toEqual([])
    await balancer.close()
  })

  test('a thenable of another make will do', async () => {
    // biome-ignore lint/suspicious/noThenProperty: what is tested is a foreign thenable
    const source = () => ({ then: (resolve: (list: Node[]) => void) => resolve(nodes('a')) })
    const balancer = new LoadBalancer(source as unknown as () => Promise<Node[]>, { clock: new FakeClock() })

    await balancer.start()

    expect(ids(balancer)).toEqual(['a'])
    await balancer.close()
  })
})

describe('a watch', () => {
  class Watch implements InstanceSource<Node> {
    readonly watchers: {
      readonly onList: (list: readonly Node[]) => void
      readonly onError: (error: unknown) => void
      readonly signal: AbortSignal
    }[] = []
    broken: unknown

    watch(
      onList: (list: readonly Node[]) => void,
      { signal, onError }: { readonly signal: AbortSignal; readonly onError: (error: unknown) => void },
    ): void {
      this.watchers.push({ onList, onError, signal })
      if (this.broken !== undefined) throw this.broken
    }

    at(index: number): Watch['watchers'][number] {
      const watcher = this.watchers[index]
      if (watcher === undefined) throw new Error(`there is no watcher ${index}`)
      return watcher
    }
  }

  test('tells of each list as it comes, and is ended by close', async () => {
    const clock = new FakeClock()
    const watch = new Watch()
    const balancer = new LoadBalancer<Node>(watch, { clock })
    expect(watch.watchers).toHaveLength(0)
    const started = balancer.start()

    watch.at(0).onList(nodes('a'))
    await started
    watch.at(0).onList(nodes('a', 'b'))

    expect(ids(balancer)).toEqual(['a', 'b'])
    await balancer.close()
    expect(watch.at(0).signal.aborted).toBe(true)
    watch.at(0).onList(nodes('late'))
    expect(ids(balancer)).toEqual(['a', 'b'])
    expect(clock.pending).toBe(0)
  })

  test('an error rejects who waits, a wrong list changes nothing, and the watch goes on', async () => {
    const clock = new FakeClock()
    const watch = new Watch()
    const balancer = new LoadBalancer<Node>(watch, { clock })
    const started = balancer.start()
    const down = new Error('down')

    watch.at(0).onError(down)
    expect(await reasonOf(started)).toBe(down)
    watch.at(0).onList(nodes('a'))
    watch.at(0).onList([{ id: '' }])

    expect(ids(balancer)).toEqual(['a'])
    expect(balancer.stats()).toMatchObject({ refreshes: 1, refreshFailures: 2 })
    expect(watch.watchers).toHaveLength(1)
    await balancer.close()
    expect(clock.pending).toBe(0)
  })

  test('one that throws or rejects is begun again after refreshMs', async () => {
    const clock = new FakeClock()
    const watch = new Watch()
    watch.broken = new Error('no connection')
    const balancer = new LoadBalancer<Node>(watch, { clock, refreshMs: 1000 })

    expect(await reasonOf(balancer.start())).toBe(watch.broken)
    await clock.advance(1000)
    expect(watch.watchers).toHaveLength(2)
    watch.broken = undefined
    await clock.advance(1000)
    watch.at(2).onList(nodes('a'))

    expect(ids(balancer)).toEqual(['a'])
    await balancer.close()
    expect(clock.pending).toBe(0)
  })

  test('an async watch that breaks off is begun again, one that only returns is not', async () => {
    const clock = new FakeClock()
    let begun = 0
    const source: InstanceSource<Node> = {
      async watch(onList) {
        begun++
        onList(nodes(`n${begun}`))
        if (begun === 1) throw new Error('broke off')
      },
    }
    const balancer = new LoadBalancer(source, { clock, refreshMs: 1000 })
    await balancer.start()

    await clock.advance(1000)
    expect(statesOf(balancer)).toEqual({ n2: 'healthy' })
    await clock.advance(10_000)

    expect(begun).toBe(2)
    await balancer.close()
    expect(clock.pending).toBe(0)
  })

  test('refresh watches anew and waits for the list of that', async () => {
    const clock = new FakeClock()
    const watch = new Watch()
    const balancer = new LoadBalancer<Node>(watch, { clock, refreshTimeoutMs: 500 })
    const started = balancer.start()
    watch.at(0).onList(nodes('a'))
    await started

    const refreshed = balancer.refresh()
    watch.at(0).onList(nodes('old'))
    watch.at(1).onList(nodes('b'))
    await refreshed

    expect(watch.at(0).signal.aborted).toBe(true)
    expect(ids(balancer)).toEqual(['b'])
    const hanging = balancer.refresh()
    await clock.advance(500)
    expect(codeOf(await reasonOf(hanging))).toBe('ERR_TIMEOUT')
    await balancer.close()
    expect(clock.pending).toBe(0)
  })

  test('an empty list is believed once nothing has contradicted it for refreshMs', async () => {
    const clock = new FakeClock()
    const watch = new Watch()
    const balancer = new LoadBalancer<Node>(watch, { clock, refreshMs: 1000 })
    const started = balancer.start()
    watch.at(0).onList(nodes('a'))
    await started

    watch.at(0).onList([])
    await clock.advance(999)
    expect(ids(balancer)).toEqual(['a'])
    watch.at(0).onList(nodes('a'))
    await clock.advance(2000)
    expect(ids(balancer)).toEqual(['a'])
    watch.at(0).onList([])
    watch.at(0).onError(new Error('down'))
    await clock.advance(5000)
    expect(ids(balancer)).toEqual(['a'])
    // It was asked anew, and is no longer heard.
    watch.at(0).onList([])
    expect(ids(balancer)).toEqual(['a'])
    watch.at(1).onList([])
    expect(ids(balancer)).toEqual([])

    await balancer.close()
    expect(clock.pending).toBe(0)
  })

  test('an empty list that nothing contradicts goes in the end', async () => {
    const clock = new FakeClock()
    const watch = new Watch()
    const balancer = new LoadBalancer<Node>(watch, { clock, refreshMs: 1000 })
    const started = balancer.start()
    watch.at(0).onList(nodes('a'))
    await started

    watch.at(0).onList([])
    await clock.advance(1000)

    expect(ids(balancer)).toEqual([])
    await balancer.close()
    expect(clock.pending).toBe(0)
  })
})

describe('across lists', () => {
  /** A balancer whose list the test sets. */
  async function listed(first: readonly Node[]): Promise<{
    balancer: LoadBalancer<Node>
    clock: FakeClock
    set: (list: readonly Node[]) => Promise<void>
  }> {
    const clock = new FakeClock()
    let list = first
    const balancer = new LoadBalancer<Node>(async () => list, { clock })
    await balancer.start()
    const set = (next: readonly Node[]): Promise<void> => {
      list = next
      return balancer.refresh()
    }
    return { balancer, clock, set }
  }

  test('what is in flight stays with its id, and the latest object is handed out', async () => {
    const { balancer, set } = await listed([{ id: 'a', zone: 'one' }])
    const lease = balancer.pick()

    await set([{ id: 'a', zone: 'two', weight: 3 }])

    expect(balancer.instances()).toEqual([
      { instance: { id: 'a', zone: 'two', weight: 3 }, state: 'healthy', inFlight: 1, weight: 3 },
    ])
    const later = balancer.pick()
    expect(later.instance.zone).toBe('two')
    expect(lease.instance.zone).toBe('one')
    lease.release()
    expect(expectBooks(balancer).pending).toBe(1)
    later.release()
    await balancer.close()
  })

  test('the order of a list disturbs nobody his turn', async () => {
    const { balancer, set } = await listed(nodes('a', 'b', 'c'))
    const orders = [nodes('c', 'b', 'a'), nodes('b', 'c', 'a'), nodes('a', 'c', 'b'), nodes('c', 'a', 'b')]
    const picked: string[] = []

    for (let turn = 0; turn < 12; turn++) {
      picked.push(...pickIds(balancer, 1))
      await set(orders[turn % 4] as Node[])
    }

    expect(tally(picked)).toEqual({ a: 4, b: 4, c: 4 })
    await balancer.close()
  })

  test('updated says what came, what went and what changed, and only then is it told', async () => {
    const { balancer, set } = await listed(nodes('a', 'b'))
    const seen: unknown[] = []
    balancer.on('updated', ({ instances, added, removed, changed }) =>
      seen.push([instances, added, removed, changed].map((list) => list.map(({ id }) => id).join(' '))),
    )

    await set(nodes('b', 'a'))
    await set(nodes('b', 'c'))
    await set([{ id: 'b', zone: 'x' }, { id: 'c' }])
    await set([
      { id: 'b', zone: 'x' },
      { id: 'c', weight: 0 },
    ])

    expect(seen).toEqual([
      ['b c', 'c', 'a', ''],
      ['b c', '', '', 'b'],
      ['b c', '', '', 'c'],
    ])
    await balancer.close()
  })

  test('an instance that went takes no picks, and is gone with its last lease', async () => {
    const { balancer, set } = await listed(nodes('a', 'b'))
    const drained: string[] = []
    balancer.on('drained', ({ instance, reason }) => drained.push(`${instance.id} ${reason}`))
    const leases = [balancer.pick(), balancer.pick(), balancer.pick(), balancer.pick()]

    await set(nodes('b'))

    expect(statesOf(balancer)).toEqual({ a: 'draining', b: 'healthy' })
    expect(tally(pickIds(balancer, 3))).toEqual({ b: 3 })
    for (const lease of leases) {
      lease.release()
      lease.release()
    }
    expect(statesOf(balancer)).toEqual({ b: 'healthy' })
    expect(drained).toEqual(['a removed'])
    expect(expectBooks(balancer).pending).toBe(0)
    await balancer.close()
  })

  test('one that comes back before that is the same one', async () => {
    const { balancer, set } = await listed(nodes('a', 'b'))
    const leases = [balancer.pick(), balancer.pick()]
    await set(nodes('b'))

    await set(nodes('b', 'a'))

    expect(balancer.instances().map(({ instance, inFlight }) => [instance.id, inFlight])).toEqual([
      ['a', 1],
      ['b', 1],
    ])
    for (const lease of leases) lease.release()
    expect(statesOf(balancer)).toEqual({ a: 'healthy', b: 'healthy' })
    expect(expectBooks(balancer).pending).toBe(0)
    await balancer.close()
  })

  test('what is asked behind the callers runs in the context in which the balancer was made', async () => {
    const tenant = new AsyncLocalStorage<string>()
    const seen: unknown[] = []
    const clock = new FakeClock()
    const note = (what: string): void => void seen.push(`${what} for ${tenant.getStore()}`)
    const balancer = tenant.run(
      'nobody',
      () =>
        new LoadBalancer<Node>(
          async () => {
            note('list')
            return nodes('a', 'b')
          },
          { clock, health: { check: () => note('check') }, onCounts: () => note('counts'), countsEveryMs: 100 },
        ),
    )
    await tenant.run('ann', () => balancer.start())

    await tenant.run('bob', async () => {
      const fn = (_: Node, { attempt }: { attempt: number }): void => {
        note(`attempt ${attempt}`)
        if (attempt === 1) throw new Error('down')
      }
      await balancer.run(fn, { attempts: 2 })
      await balancer.refresh()
    })
    await clock.advance(100)
    balancer.pick().release()
    await tenant.run('cid', () => balancer.close())

    expect(new Set(seen)).toEqual(
      new Set(['list for nobody', 'check for nobody', 'attempt 1 for bob', 'attempt 2 for bob', 'counts for nobody']),
    )
    expect(clock.pending).toBe(0)
  })

  test('a listener that gives back the last lease is told once that the instance is drained', async () => {
    const { balancer, set } = await listed(nodes('a'))
    const lease = balancer.pick()
    const drained: string[] = []
    balancer.on('drained', ({ instance }) => drained.push(instance.id))
    balancer.on('updated', () => lease.release())

    await set(nodes('b'))

    expect(drained).toEqual(['a'])
    await balancer.close()
  })

  test('a listener may refresh, pick and close', async () => {
    const { balancer, set, clock } = await listed(nodes('a'))
    const picked: string[] = []
    const errors: unknown[] = []
    balancer.on('updated', ({ added }) => {
      picked.push(balancer.pick().instance.id)
      if (added.some(({ id }) => id === 'last')) void balancer.close({ timeoutMs: 0 })
      else balancer.refresh().catch((error: unknown) => errors.push(error))
    })

    await set(nodes('b'))
    await set(nodes('last'))
    await clock.advance(0)

    expect(picked).toEqual(['b', 'last'])
    expect(codeOf(thrownBy(() => balancer.pick()))).toBe('ERR_CLOSED')
    expect(clock.pending).toBe(0)
  })
})
