import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { ConsulRegistration, type ConsulTlsOptions } from 'spillway/consul'
import { afterAll, describe, expect, it } from 'vitest'
import { consulBinary, type OwnConsulServer, startConsul } from '../../servers/consul.js'
import { freePort } from '../../servers/free-port.js'
import { until, watching } from './support/watching.js'

const binary = await consulBinary()
const httpsPort = await freePort()
let tls: ConsulTlsOptions = {}
const consul: OwnConsulServer | undefined = await startConsul({
  own: true,
  settings: (folder) => {
    const make = (...args: string[]): void => {
      const made = spawnSync(binary?.path ?? '', ['tls', ...args], {
        cwd: folder,
        env: { ...process.env, ...binary?.env },
      })
      if (made.status !== 0) throw new Error(`consul tls ${args.join(' ')}: ${made.stderr}`)
    }
    make('ca', 'create')
    make('cert', 'create', '-server')
    make('cert', 'create', '-client')
    const read = (name: string): string => readFileSync(join(folder, name), 'utf8')
    tls = {
      ca: read('consul-agent-ca.pem'),
      cert: read('dc1-client-consul-0.pem'),
      key: read('dc1-client-consul-0-key.pem'),
    }
    return {
      ca_file: join(folder, 'consul-agent-ca.pem'),
      cert_file: join(folder, 'dc1-server-consul-0.pem'),
      key_file: join(folder, 'dc1-server-consul-0-key.pem'),
      verify_incoming_https: true,
      ports: { https: httpsPort },
    }
  },
})

describe.skipIf(consul === undefined)('a Consul behind TLS', () => {
  const address = `https://127.0.0.1:${httpsPort}`
  const own = { address, service: 'web', host: '127.0.0.1', port: 80, closeTimeoutMs: 100 }

  afterAll(() => consul?.stop())

  it('is reached with its CA and a client certificate', async () => {
    const registration = new ConsulRegistration({ ...own, tls, closeTimeoutMs: 5000 })
    await registration.start()
    const seen = watching({ address, tls, service: 'web' })
    await until(() => seen.ids()?.length === 1, 'the instance')
    seen.stop()

    expect(seen.errors).toEqual([])
    expect(await registration.close()).toEqual({ drained: true, abandoned: 0 })
  })

  it('is not trusted without, and then nothing was sent', async () => {
    const registration = new ConsulRegistration(own)

    await expect(registration.start()).rejects.toMatchObject({
      code: 'ERR_STORE',
      retryable: true,
      outcomeUnknown: false,
    })
    await registration.close()
  })

  it('is not trusted by another name', async () => {
    const registration = new ConsulRegistration({ ...own, tls: { ...tls, servername: 'elsewhere.example' } })

    await expect(registration.start()).rejects.toMatchObject({ cause: { code: 'ERR_TLS_CERT_ALTNAME_INVALID' } })
    await registration.close()
  })
})
