import { Metadata, status } from '@grpc/grpc-js'
import { MemoryCounterStore } from 'spillway/testing'
import { expect, onTestFinished, test } from 'vitest'
import { counterClient, type StreamAcknowledgement } from '../../examples/counter-billing/counter/protocol.ts'
import { startCounterService } from '../../examples/counter-billing/service.ts'
import { startAuth } from './auth-client.ts'

/** Sends one message in a stream, and tells which messages were acknowledged, or with what code the stream ended. */
async function startStreaming(): Promise<{
  stream(token?: string): Promise<readonly string[] | status>
  tokenFor(scope: string): Promise<string>
  stored(): Promise<readonly number[]>
}> {
  const auth = await startAuth()
  const stores = { live: new MemoryCounterStore(), durable: new MemoryCounterStore() }
  const trust = { url: auth.service.url }
  const service = await startCounterService({ ...stores, auth: trust, port: 0, log: () => undefined })
  const client = counterClient(service.address)
  onTestFinished(async () => {
    client.close()
    await service.close()
  })
  const stream = (token?: string): Promise<readonly string[] | status> =>
    new Promise((resolve) => {
      const metadata = new Metadata()
      if (token !== undefined) metadata.set('authorization', `Bearer ${token}`)
      const call = client.streamIncrements(metadata)
      const acknowledged: string[] = []
      call.on('data', ({ id }: StreamAcknowledgement) => {
        acknowledged.push(id)
        call.end()
      })
      call.on('error', ({ code }: { code?: status }) => resolve(code ?? status.UNKNOWN))
      call.on('end', () => resolve(acknowledged))
      call.write({ id: 'one', keys: ['a:like'], deltas: [1] })
    })
  const tokenFor = (scope: string): Promise<string> => auth.token('gateway', 'counter-service', scope)
  return { stream, tokenFor, stored: () => stores.durable.getMany(['a:like']) }
}

test('a stream without a token that allows it ends with the reason, and the service goes on', async () => {
  const { stream, tokenFor, stored } = await startStreaming()

  const ends = [await stream(), await stream('x'), await stream(await tokenFor('counters:read'))]

  expect(ends).toEqual([status.UNAUTHENTICATED, status.UNAUTHENTICATED, status.PERMISSION_DENIED])
  expect(await stored()).toEqual([0])
})

test('a stream with a token that allows it is let in, with what was sent before that was known', async () => {
  const { stream, tokenFor, stored } = await startStreaming()

  expect(await stream(await tokenFor('counters:write'))).toEqual(['one'])
  expect(await stored()).toEqual([1])
})
