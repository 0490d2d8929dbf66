import { afterAll, afterEach, describe, expect, it } from 'vitest'
import { type OwnConsulServer, startConsul } from '../../servers/consul.js'
import { AgentApi } from './support/agent-api.js'
import { elapse, until, type Watching, watching } from './support/watching.js'

const consul: OwnConsulServer | undefined = await startConsul({ own: true, durable: true })

describe.skipIf(consul === undefined)('consulSource, while Consul restarts', { timeout: 90_000 }, () => {
  const server = consul as OwnConsulServer
  const api = new AgentApi(server?.address)
  let seen: Watching

  afterEach(() => seen.stop())
  afterAll(() => consul?.stop())

  it('keeps the list while Consul is away, and sees what changes after it came back with its data', async () => {
    await api.register('web', 'web-1', { port: 80 })
    seen = watching({ address: server.address, service: 'web' })
    await until(() => seen.ids()?.length === 1, 'the first instance')

    await server.kill()
    await until(() => seen.errors.length > 0, 'an error')
    await elapse(1000)
    const whileAway = seen.lists.length
    await server.restart()
    await api.register('web', 'web-2', { port: 81 })
    await until(() => seen.ids()?.length === 2, 'the second instance', 40_000)

    expect(whileAway).toBe(1)
    expect(seen.lists.every((list) => list.length > 0)).toBe(true)
    expect(seen.errors.length).toBeLessThan(20)
    expect(seen.errors[0]).toMatchObject({ code: 'ERR_STORE', retryable: true, outcomeUnknown: false })
  })

  it('sees what a Consul without its data says, though its index is a lower one', async () => {
    // Many writes make a high index, which the new Consul takes long to reach.
    for (let i = 0; i < 40; i++) await api.send('PUT', '/v1/kv/padding', i)
    await api.register('web', 'web-1', { port: 80 })
    seen = watching({ address: server.address, service: 'web' })
    await until(() => seen.lists.length > 0, 'a list')

    await server.kill()
    await server.restart({ forget: true })
    await until(() => seen.ids()?.length === 0, 'the empty list', 40_000)
    await api.register('web', 'web-9', { port: 89 })
    await until(() => seen.ids()?.length === 1, 'the new instance', 5000)

    expect(seen.ids()).toEqual(['web-9'])
  })
})
