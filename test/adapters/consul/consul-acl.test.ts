import { inspect } from 'node:util'
import { ConsulRegistration, consulSource } from 'spillway/consul'
import { afterAll, describe, expect, it } from 'vitest'
import { type OwnConsulServer, startConsul } from '../../servers/consul.js'
import { elapse, until, watching } from './support/watching.js'

const token = '11111111-2222-3333-4444-555555555555'
const consul: OwnConsulServer | undefined = await startConsul({
  own: true,
  token,
  settings: () => ({ acl: { enabled: true, default_policy: 'deny', tokens: { master: token, agent: token } } }),
})

describe.skipIf(consul === undefined)('a Consul that asks for a token', () => {
  const { address = '' } = consul ?? {}
  const own = { service: 'web', host: '127.0.0.1', port: 80 }

  afterAll(() => consul?.stop())

  it('takes the registration and the watch of who has it, and refuses others', async () => {
    const registration = new ConsulRegistration({ ...own, address, token, check: { ttlMs: 5000 } })
    // Its ACLs are there a moment after its leader.
    await until(
      () =>
        registration.start().then(
          () => true,
          () => false,
        ),
      'registered',
    )
    const seen = watching({ address, token, service: 'web' })
    const blind = watching({ address, service: 'web' })
    const stranger = new ConsulRegistration({
      ...own,
      address,
      id: 'stranger',
      token: 'no-such-token',
      closeTimeoutMs: 50,
    })

    const refused = await stranger.start().catch((error: unknown) => error)
    await until(() => seen.ids()?.length === 1, 'the instance')
    await until(() => blind.lists.length > 0, 'a list')
    await elapse(100)

    expect(seen.ids()).toEqual([registration.id])
    // So Consul answers those who may not see.
    expect(blind.ids()).toEqual([])
    expect(refused).toMatchObject({ status: 403, retryable: false, outcomeUnknown: false })
    expect(inspect(refused, { depth: 10 })).not.toContain('no-such-token')
    for (const each of [seen, blind]) each.stop()
    await stranger.close()
    expect(await registration.close()).toEqual({ drained: true, abandoned: 0 })
  })

  it('is told to nobody else', () => {
    const registration = new ConsulRegistration({ ...own, token })
    const source = consulSource({ service: 'web', token })

    const told = inspect([registration, registration.stats(), source], { depth: 10, showHidden: true })

    expect(told).not.toContain(token)
  })
})
