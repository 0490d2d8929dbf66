import { GrpcChannelPool } from 'spillway/grpc'
import { describe, expect, it, vi } from 'vitest'
import { clientOf, startServer } from './support/counter-service.js'
import { startRelay } from './support/relay.js'
import { cleanUp, tidyUp } from './support/tidy.js'

tidyUp()

async function held() {
  const waiting: (() => void)[] = []
  const cancelled = vi.fn()
  const server = await startServer({
    get: (call, callback) => {
      waiting.push(() => callback(null, { value: 1 }))
      call.on('cancelled', cancelled)
    },
    increments: (call) => {
      call.on('cancelled', cancelled)
      waiting.push(() => call.end())
    },
  })
  cleanUp(() => server.kill())
  const relay = await startRelay(server.port)
  cleanUp(() => relay.stop())
  const pool = new GrpcChannelPool(clientOf(relay.address), { channels: 2, name: 'counters' })
  return { pool, waiting, cancelled, relay }
}

describe('close', () => {
  it('lets calls in flight finish, refuses more, and then closes the connections', async () => {
    const { pool, waiting, relay } = await held()
    const answers = [pool.call('get', { key: 'a' }), pool.call('get', { key: 'b' })]
    await vi.waitFor(() => expect(waiting).toHaveLength(2))

    const closing = pool.close()
    await expect(pool.call('get', { key: 'c' })).rejects.toMatchObject({
      code: 'ERR_CLOSED',
      message: 'counters is closed',
    })
    for (const answer of waiting) answer()

    expect(await Promise.all(answers)).toEqual([{ value: 1 }, { value: 1 }])
    expect(await closing).toEqual({ drained: true, abandoned: 0 })
    expect(await pool.close()).toEqual({ drained: true, abandoned: 0 })
    await vi.waitFor(() => expect(relay.open).toBe(0))
    expect(pool.stats()).toMatchObject({ offered: 3, succeeded: 2, rejected: 1, pending: 0 })
    expect(pool.stats().channels.map(({ state }) => state)).toEqual(['shutdown', 'shutdown'])
  })

  it('cancels at the deadline what is left, at the server too', async () => {
    const { pool, waiting, cancelled, relay } = await held()
    const cancel = vi.fn()
    const answer = pool.call('get', { key: 'a' })
    const stream = pool.openStream('increments')
    stream.write({ id: '1', key: 'a' })
    pool.lease({ cancel })
    await vi.waitFor(() => expect(waiting).toHaveLength(2))

    const report = await pool.close({ timeoutMs: 20 })

    expect(report).toEqual({ drained: false, abandoned: 3 })
    await expect(answer).rejects.toMatchObject({ code: 'ERR_CLOSED', outcomeUnknown: true })
    expect(cancel).toHaveBeenCalledTimes(1)
    await vi.waitFor(() => expect(cancelled).toHaveBeenCalledTimes(2))
    await vi.waitFor(() => expect(relay.open).toBe(0))
    expect(pool.stats()).toMatchObject({ offered: 3, failed: 3, pending: 0 })
  })

  it('waits for replaced channels too', async () => {
    const { pool, waiting, relay } = await held()
    const answer = pool.call('get', { key: 'a' })
    await vi.waitFor(() => expect(waiting).toHaveLength(1))
    void pool.replace(0)

    const closing = pool.close()
    waiting[0]?.()

    expect(await answer).toEqual({ value: 1 })
    expect(await closing).toEqual({ drained: true, abandoned: 0 })
    await vi.waitFor(() => expect(relay.open).toBe(0))
  })

  it('right after the first call leaves no connection behind, which grpc-js alone does', async () => {
    const server = await startServer({})
    cleanUp(() => server.kill())
    const relay = await startRelay(server.port)
    cleanUp(() => relay.stop())
    const bare = clientOf(relay.address)({ 'grpc.use_local_subchannel_pool': 1 })
    bare.get({ key: 'a' }, () => undefined)
    bare.close()
    await vi.waitFor(() => expect(relay.open).toBe(1))
    cleanUp(() => bare.close())
    const closed = await startRelay(server.port)
    cleanUp(() => closed.stop())
    const pool = new GrpcChannelPool(clientOf(closed.address), { channels: 3 })

    const answers = Array.from({ length: 3 }, () => pool.call('get', { key: 'a' }))
    await pool.close({ timeoutMs: 0 })
    await Promise.allSettled(answers)

    await new Promise((resolve) => setTimeout(resolve, 100))
    expect(closed.open).toBe(0)
    expect(pool.stats().channels.map(({ state }) => state)).toEqual(Array(3).fill('shutdown'))
  })

  it('happens at the end of an await using block', async () => {
    const { pool } = await held()
    {
      await using mine = pool
      mine.stats()
    }

    await expect(pool.call('get', { key: 'a' })).rejects.toMatchObject({ code: 'ERR_CLOSED' })
  })
})

describe('flush', () => {
  it('settles what was in flight, and goes on accepting', async () => {
    const { pool, waiting } = await held()
    void pool.call('get', { key: 'a' })
    await vi.waitFor(() => expect(waiting).toHaveLength(1))

    const flushing = pool.flush()
    const later = pool.call('get', { key: 'b' })
    await vi.waitFor(() => expect(waiting).toHaveLength(2))
    waiting[0]?.()

    expect(await flushing).toEqual({ succeeded: 1, failed: 0, dropped: 0 })
    expect(pool.stats().pending).toBe(1)
    waiting[1]?.()
    await later
    expect(await pool.flush()).toEqual({ succeeded: 0, failed: 0, dropped: 0 })
    await pool.close()
  })
})
