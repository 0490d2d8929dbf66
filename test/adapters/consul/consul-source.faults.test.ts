import { consulSource } from 'spillway/consul'
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type ConsulServer, startConsul } from '../../servers/consul.js'
import { AgentApi } from './support/agent-api.js'
import { FaultyProxy, type SeenRequest } from './support/faulty-proxy.js'
import { elapse, uniqueService, until, type Watching, watching } from './support/watching.js'

const consul: ConsulServer | undefined = await startConsul()

describe.skipIf(consul === undefined)('consulSource, through a proxy that breaks what Consul says', () => {
  const { address = '', port = 0 } = consul ?? {}
  const api = new AgentApi(address)
  const watchings: Watching[] = []
  let proxy: FaultyProxy
  let name: string
  let id: string

  beforeEach(async () => {
    proxy = await FaultyProxy.start(port)
    name = uniqueService()
    id = `${name}-a`
    await api.register(name, id, { status: 'passing' })
  })
  afterEach(async () => {
    for (const seen of watchings.splice(0)) seen.stop()
    await proxy.stop()
    for (const each of [id, `${name}-b`]) await api.deregister(each).catch(() => undefined)
  })
  afterAll(() => consul?.stop())

  function watch(options: Partial<Parameters<typeof watching>[0]> = {}): Watching {
    const seen = watching({ address: proxy.address, service: name, ...options })
    watchings.push(seen)
    return seen
  }

  /** That no stretch of time had more requests than a burst and one each interval. */
  function expectPace(minIntervalMs: number, burst: number): void {
    const { requests } = proxy
    for (const [from, { at }] of requests.entries()) {
      for (const [i, { at: until }] of requests.slice(from).entries()) {
        // What was sent on time may have come late, and so nearer to the next: not by more than one.
        expect(i + 1).toBeLessThanOrEqual(burst + 1 + (until - at) / minIntervalMs)
      }
    }
  }

  /**
   * The next requests, so many, and how long the last of them came after the first. As each is made after the one
   * before was answered, no delay of a busy machine makes that shorter.
   */
  async function next(count: number): Promise<{ requests: readonly SeenRequest[]; spanMs: number }> {
    const from = proxy.requests.length
    await until(() => proxy.requests.length >= from + count, `${count} requests`)
    const requests = proxy.requests.slice(from, from + count)
    return { requests, spanMs: (requests.at(-1)?.at ?? 0) - (requests[0]?.at ?? 0) }
  }

  /** Requests that came in a stretch of real time. */
  async function requestsWithin(ms: number): Promise<SeenRequest[]> {
    const from = proxy.requests.length
    await elapse(ms)
    return proxy.requests.slice(from)
  }

  it('asks at most burst + one a minInterval when each answer has a new index', async () => {
    let churn = 1_000_000
    proxy.fault = () => ({ index: () => churn++ })
    // Consul answers a wait beyond an index that it hasn't reached yet only when the wait is over.
    const seen = watch({ minIntervalMs: 100, burst: 3, waitMs: 1 })
    await until(() => proxy.requests.length === 10, 'ten queries')

    expectPace(100, 3)
    expect(proxy.requests.slice(1).every(({ index }) => index !== undefined)).toBe(true)
    // The list never changed, whatever the index said.
    expect(seen.lists).toHaveLength(1)
    expect(seen.errors).toEqual([])
  })

  it('starts over when the index goes back, and sees what changes after', async () => {
    let back = false
    proxy.fault = () => ({ index: (real) => (back ? real : real + 1_000_000) })
    const seen = watch({ minIntervalMs: 100, waitMs: 200 })
    await until(() => proxy.requests.some(({ index }) => (index ?? 0) > 1_000_000), 'a wait beyond the high index')

    back = true
    const from = proxy.requests.length
    await until(() => proxy.requests.slice(from).some(({ index }) => index === undefined), 'a query without an index')
    await until(() => (proxy.requests.at(-1)?.index ?? 1_000_000) < 1_000_000, 'a wait beyond the low index')
    expectPace(100, 2)
    await api.register(name, `${name}-b`)
    await until(() => seen.ids()?.length === 2, 'the second instance', 3000)

    expect(seen.lists).toHaveLength(2)
    expect(seen.errors).toEqual([])
  })

  it('takes an index of 0 for 1, and polls once that turns out not to block', { timeout: 30_000 }, async () => {
    proxy.fault = () => ({ index: () => 0 })
    const seen = watch({ minIntervalMs: 100, fallbackPollMs: 100 })
    await until(() => proxy.requests.length >= 4, 'the poll')

    const { requests, spanMs } = await next(5)

    expect(proxy.requests.slice(0, 4).map(({ index }) => index)).toEqual([undefined, 1, 1, undefined])
    expect(spanMs).toBeGreaterThan(4 * 89)
    expect(requests.every(({ index }) => index === undefined)).toBe(true)
    await api.register(name, `${name}-b`)
    await until(() => seen.ids()?.length === 2, 'the second instance', 2000)
    expect(seen.errors).toEqual([])
  })

  it('polls while there is no index, and blocks again once there is one', async () => {
    let indexed = false
    proxy.fault = () => ({ index: (real) => (indexed ? real : undefined) })
    const seen = watch({ minIntervalMs: 10, fallbackPollMs: 100 })
    await until(() => proxy.requests.length > 1, 'a poll')
    const { requests, spanMs } = await next(5)
    expect(spanMs).toBeGreaterThan(4 * 89)
    expect(requests.every(({ index }) => index === undefined)).toBe(true)

    indexed = true
    await until(() => proxy.requests.at(-1)?.index !== undefined, 'a blocking query')
    expect(await requestsWithin(400)).toEqual([])
    await api.register(name, `${name}-b`)
    await until(() => seen.ids()?.length === 2, 'the second instance', 2000)

    expect(seen.errors).toEqual([])
  })

  it('polls when what answers ignores the wait', async () => {
    proxy.fault = () => 'no wait'
    const seen = watch({ minIntervalMs: 50, fallbackPollMs: 100 })
    await until(() => proxy.requests.length >= 4, 'the poll')

    const { spanMs } = await next(5)

    expect(proxy.requests.slice(0, 4).map(({ index }) => index !== undefined)).toEqual([false, true, true, false])
    expect(spanMs).toBeGreaterThan(4 * 89)
    expect(seen.lists).toHaveLength(1)
  })

  it.each([
    ['500', { status: 500, body: 'No cluster leader' }],
    ['429', { status: 429, body: 'rate limit exceeded' }],
    ['cut', 'cut'],
  ] as const)('backs off on %s, and gives no list', { timeout: 30_000 }, async (_what, fault) => {
    const seen = watch({ minIntervalMs: 10, burst: 10, retry: { delayMs: 50, maxDelayMs: 200 }, random: () => 0.999 })
    await until(() => seen.ids()?.length === 1, 'the list')
    proxy.fault = () => fault
    await api.register(name, `${name}-b`)
    await until(() => seen.ids()?.length === 2 || seen.errors.length > 0, 'the end of the wait')

    const { spanMs } = await next(5)

    // 50, 100, 200, 200 ms apart, if not longer.
    expect(spanMs).toBeGreaterThan(545)
    expect(seen.lists.every((list) => list.length > 0)).toBe(true)
    expect(seen.errors[0]).toMatchObject({ code: 'ERR_STORE', retryable: true, outcomeUnknown: false })

    // Though it is as it was, it is told again: the watcher has to learn that the error is over.
    const told = seen.lists.length
    proxy.fault = () => undefined
    await until(() => seen.lists.length > told, 'the list after the errors', 5000)
    expect(seen.ids()).toHaveLength(2)
  })

  it('gives up a query that is never answered, and keeps the list', { timeout: 30_000 }, async () => {
    const seen = watch({ minIntervalMs: 10, timeoutMs: 300, waitMs: 160, retry: { delayMs: 50, maxDelayMs: 50 } })
    await until(() => seen.ids()?.length === 1, 'the list')
    proxy.fault = () => 'hang'
    await until(() => seen.errors.length > 0, 'an error')

    const { spanMs } = await next(3)

    expect(spanMs).toBeGreaterThan(2 * 299)
    await until(async () => (await proxy.connections()) <= 1, 'what was given up is closed', 1000)
    expect(seen.lists).toHaveLength(1)
    // A blocking one had its wait, a sixteenth of it and the time for an answer.
    expect(seen.errors[0]).toMatchObject({ code: 'ERR_STORE', cause: { code: 'ERR_TIMEOUT', timeoutMs: 470 } })
    expect(seen.errors[1]).toMatchObject({ cause: { code: 'ERR_TIMEOUT', timeoutMs: 300 } })
  })

  it('polls where a proxy drops what takes long', { timeout: 30_000 }, async () => {
    proxy.fault = ({ index }) => (index === undefined ? undefined : 'cut')
    const seen = watch({ minIntervalMs: 10, fallbackPollMs: 100, retry: { delayMs: 20, maxDelayMs: 20 } })
    await until(() => seen.errors.length === 2, 'two cuts')
    await until(() => proxy.requests.filter(({ index }) => index === undefined).length >= 4, 'polls')

    const { requests, spanMs } = await next(5)

    expect(spanMs).toBeGreaterThan(4 * 89)
    expect(requests.every(({ index }) => index === undefined)).toBe(true)
    await api.register(name, `${name}-b`)
    await until(() => seen.ids()?.length === 2, 'the second instance', 2000)
    expect(seen.errors).toHaveLength(2)
  })

  it('takes what is no answer of Consul for an error', async () => {
    proxy.fault = () => ({ status: 200, body: '<html>Welcome</html>' })
    const seen = watch({ retry: { delayMs: 50 } })
    await until(() => seen.errors.length > 1, 'errors')

    expect(seen.lists).toEqual([])
    expect(seen.errors[0]).toMatchObject({ name: 'ConsulError', status: 200, cause: expect.any(SyntaxError) })
  })

  it('tells nobody the token, though the answer does', async () => {
    const token = 'b6a3e4f0-secret-token'
    proxy.fault = () => ({ status: 403, body: `token ${token} has no permission` })
    const seen = watch({ token })
    await until(() => seen.errors.length > 0, 'an error')

    const [error] = seen.errors as [Error]
    expect(error).toMatchObject({ status: 403, retryable: false })
    expect(error.message).toContain('token … has no permission')
    expect(JSON.stringify([error, Object.entries(error), error.stack, error.cause])).not.toContain(token)
  })

  it('goes on when its callbacks throw or reject, and warns', async () => {
    const warnings: Error[] = []
    const warned = (warning: Error): void => void warnings.push(warning)
    process.on('warning', warned)
    const controller = new AbortController()
    let lists = 0
    consulSource({ address: proxy.address, service: name, retry: { delayMs: 10 }, minIntervalMs: 10 }).watch(
      () => {
        lists++
        throw new Error('onList is broken')
      },
      { signal: controller.signal, onError: () => Promise.reject(new Error('onError is broken')) },
    )
    await until(() => lists === 1, 'a list')
    proxy.fault = () => ({ status: 500 })
    await api.register(name, `${name}-b`)
    await until(() => warnings.length === 2, 'the warnings')
    proxy.fault = () => undefined
    const before = lists
    await until(() => lists > before, 'another list')
    controller.abort()
    process.off('warning', warned)

    // Each once, however often it fails.
    expect(warnings.map(({ message }) => message.split('\n')[0])).toEqual([
      'onList of consul-source failed: Error: onList is broken',
      'onError of consul-source failed: Error: onError is broken',
    ])
  })

  it('ends with the signal: no connection, no further request, no list', async () => {
    const seen = watch({ minIntervalMs: 10 })
    await until(() => proxy.requests.at(-1)?.index !== undefined, 'a blocking query')
    expect(await proxy.connections()).toBe(1)

    seen.stop()
    await until(async () => (await proxy.connections()) === 0, 'the connection is gone', 1000)
    await api.register(name, `${name}-b`)

    expect(await requestsWithin(300)).toEqual([])
    expect(seen.lists).toHaveLength(1)
    expect(seen.errors).toEqual([])
  })
})
