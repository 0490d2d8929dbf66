import { Readable } from 'node:stream'
import { brotliDecompressSync, createBrotliDecompress, createGunzip, gunzipSync, gzipSync } from 'node:zlib'
import Fastify from 'fastify'
import { MemoryCounterStore } from 'spillway/testing'
import { request } from 'undici'
import { describe, expect, onTestFinished, test } from 'vitest'
import { compressAnswers, uncompressedBytes } from '../../examples/counter-billing/http/compression.ts'
import { batches, type Client, increments, startClient } from './counter-client.ts'

const newStores = () => ({ live: new MemoryCounterStore(), durable: new MemoryCounterStore() })
const decompressors = { gzip: gunzipSync, br: brotliDecompressSync } as const

interface RawAnswer {
  readonly status: number
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
  readonly bytes: Buffer
}

/** Asks past everything that would decompress. */
async function ask({ service }: Client, path: string, accept?: string, body?: unknown): Promise<RawAnswer> {
  const headers = {
    ...(accept !== undefined && { 'accept-encoding': accept }),
    ...(body !== undefined && { 'content-type': 'application/json' }),
  }
  const method = body === undefined ? 'GET' : 'POST'
  const answer = await request(service.url + path, {
    method,
    headers,
    body: body === undefined ? null : JSON.stringify(body),
  })
  return { status: answer.statusCode, headers: answer.headers, bytes: Buffer.from(await answer.body.arrayBuffer()) }
}

const batch = {
  operations: Array.from({ length: 100 }, (_, n) => ({ resource_id: `post-${n}`, counter_type: 'like' })),
}

describe('answers of the gateway', () => {
  test.each(['gzip', 'br'] as const)(
    'that are long come compressed by %s where that is asked for',
    async (encoding) => {
      const client = await startClient(newStores())

      const { status, headers, bytes } = await ask(client, batches, encoding, batch)

      expect([status, headers['content-encoding'], headers['vary']]).toEqual([200, encoding, 'accept-encoding'])
      const text = decompressors[encoding](bytes).toString()
      expect(JSON.parse(text).results).toHaveLength(100)
      expect(bytes.length).toBeLessThan(text.length / 3)
    },
  )

  test.each([
    ['nobody asks', undefined],
    ['it is refused', 'identity'],
    ['nothing is known that is asked for', 'compress'],
    ['all that is known is ruled out', 'gzip;q=0, br;q=0'],
  ])('come as they are where %s', async (_name, accept) => {
    const { status, headers, bytes } = await ask(await startClient(newStores()), batches, accept, batch)

    expect([status, headers['content-encoding']]).toEqual([200, undefined])
    expect(JSON.parse(bytes.toString()).results).toHaveLength(100)
  })

  test('that are short come as they are', async () => {
    const client = await startClient(newStores())
    const operation = { resource_id: 'post', counter_type: 'like' }

    const answers = [
      await ask(client, increments, 'gzip, br', operation),
      await ask(client, increments, 'gzip, br', { ...operation, ack: 'committed' }),
      await ask(client, '/api/v1/counter/post/like', 'gzip, br'),
      await ask(client, '/healthz', 'gzip, br'),
      await ask(client, '/nowhere', 'gzip, br'),
    ]

    expect(answers.map(({ status }) => status)).toEqual([202, 200, 200, 200, 404])
    for (const { headers, bytes } of answers) {
      expect(headers['content-encoding']).toBeUndefined()
      expect(() => JSON.parse(bytes.toString())).not.toThrow()
    }
  })

  test('to what comes compressed are a refusal: a small request does not become a large one', async () => {
    const { service } = await startClient(newStores())
    const headers = { 'content-type': 'application/json', 'content-encoding': 'gzip' }

    const plain = JSON.stringify({ resource_id: 'a', counter_type: 'like' })

    for (const body of [gzipSync(plain), plain]) {
      const answer = await request(service.url + increments, { method: 'POST', headers, body })

      expect([answer.statusCode, answer.headers['accept-encoding']]).toEqual([415, 'identity'])
      expect(await answer.body.json()).toMatchObject({ code: 'unsupported_media_type' })
    }
    expect(service.counters.durableWrites.stats().offered).toBe(0)
  })
})

describe('compression', () => {
  /** A server with answers of any size, and a stream whose parts come when the test says so. */
  const start = async () => {
    let begin = (_stream: Readable): void => undefined
    const begun = new Promise<Readable>((resolve) => {
      begin = resolve
    })
    const app = Fastify()
    onTestFinished(() => app.close())
    await compressAnswers(app)
    app.get<{ Querystring: { length: string } }>('/text', ({ query }) => 'a'.repeat(Number(query.length)))
    app.get('/stream', (_request, reply) => {
      const stream = new Readable({ read: () => undefined })
      begin(stream)
      return reply.type('text/plain').send(stream)
    })
    const url = await app.listen({ port: 0, host: '127.0.0.1' })
    return { url, push: async (text: string | null) => void (await begun).push(text) }
  }

  test('begins above 1000 bytes', async () => {
    const { url } = await start()
    const encodingOf = async (length: number) =>
      (await request(`${url}/text?length=${length}`, { headers: { 'accept-encoding': 'gzip' } })).headers[
        'content-encoding'
      ]

    expect(uncompressedBytes).toBe(1_000)
    expect([await encodingOf(1_000), await encodingOf(1_001)]).toEqual([undefined, 'gzip'])
  })

  test.each([
    ['gzip', () => createGunzip()],
    ['br', () => createBrotliDecompress()],
  ] as const)(
    'by %s leaves a stream one: each part comes while the next is yet to be',
    async (encoding, decompressor) => {
      const { url, push } = await start()
      const asked = request(`${url}/stream`, { headers: { 'accept-encoding': encoding } })
      let text = ''

      await push('the first part of a stream\n')
      const { body, headers } = await asked
      const read = body.pipe(decompressor()).setEncoding('utf8')
      read.on('data', (part: string) => {
        text += part
      })

      expect(headers['content-encoding']).toBe(encoding)
      await expect.poll(() => text).toBe('the first part of a stream\n')
      await push('the second part\n')
      await expect.poll(() => text).toBe('the first part of a stream\nthe second part\n')
      await push(null)
      await expect.poll(() => read.readableEnded).toBe(true)
    },
  )
})
