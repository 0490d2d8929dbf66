import { status } from '@grpc/grpc-js'
import fc from 'fast-check'
import { AckedStream, GrpcChannelPool } from 'spillway/grpc'
import { describe, expect, it } from 'vitest'
import { clientOf, type StreamAck, type StreamMessage, startServer, statusError } from './support/counter-service.js'
import { cleanUp, tidyUp } from './support/tidy.js'

tidyUp()

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

/** One server for all runs: it answers, refuses, delays, or breaks the stream, as each request says. */
async function obedientServer() {
  let breaks = 0
  const server = await startServer({
    get: ({ request }, callback) => {
      if (request.key === 'fail') callback(statusError(status.NOT_FOUND, 'no'))
      else if (request.key === 'slow') setTimeout(() => callback(null, { value: 1 }), 5)
      else if (request.key !== 'never') callback(null, { value: 1 })
    },
    increments: (call) => {
      call.on('data', ({ id, key }) => {
        if (key === 'break' && breaks++ % 2 === 0) call.emit('error', statusError(status.UNAVAILABLE, 'bye'))
        else if (key !== 'silent') call.write({ id, value: 1 })
      })
      call.on('end', () => call.end())
      call.on('error', () => undefined)
    },
  })
  cleanUp(() => server.kill())
  return server
}

const steps = fc.array(
  fc.record({
    key: fc.constantFrom('ok', 'fail', 'slow', 'never', 'break', 'silent'),
    abort: fc.constantFrom('no', 'before', 'at once', 'later'),
    wait: fc.boolean(),
  }),
  { maxLength: 25 },
)

describe('the books', () => {
  it('of a pool balance at every moment', async () => {
    const server = await obedientServer()
    await fc.assert(
      fc.asyncProperty(steps, fc.nat(10), async (plan, closeMs) => {
        const pool = new GrpcChannelPool(clientOf(server.address), {
          channels: { min: 1, max: 3, maxStreamsPerChannel: 3 },
        })
        const check = (): void => {
          const { offered, succeeded, failed, rejected, aborted, pending, channels, draining } = pool.stats()
          expect(offered).toBe(succeeded + failed + rejected + aborted + pending)
          const inFlight = channels.reduce((sum, channel) => sum + channel.inFlight, 0)
          if (draining === 0) expect(inFlight).toBe(pending)
        }
        for (const { key, abort, wait } of plan) {
          const controller = new AbortController()
          if (abort === 'before') controller.abort('early')
          void pool
            .call('get', { key }, { signal: controller.signal, timeoutMs: 20 })
            .finally(check)
            .catch(() => undefined)
          if (abort === 'at once') controller.abort('now')
          if (abort === 'later') void turn().then(() => controller.abort('later'))
          if (key === 'break') void pool.replace(0)
          check()
          if (wait) await turn()
        }
        const { abandoned } = await pool.close({ timeoutMs: closeMs })
        check()
        expect(abandoned).toBeLessThanOrEqual(plan.length)
        expect(pool.stats()).toMatchObject({ offered: plan.length, pending: 0, draining: 0 })
      }),
      { numRuns: 40 },
    )
  })

  it('of a stream balance at every moment, and every message is settled once', async () => {
    const server = await obedientServer()
    await fc.assert(
      fc.asyncProperty(steps, fc.nat(20), async (plan, closeMs) => {
        const pool = new GrpcChannelPool(clientOf(server.address), { channels: 1 })
        const stream = new AckedStream<string, StreamMessage, StreamAck>(() => pool.openStream('increments'), {
          message: (key, id) => ({ id, key }),
          idOf: ({ id }) => id,
          capacity: 10,
          retry: { attempts: 3, delayMs: 1, maxDelayMs: 2 },
          ackTimeoutMs: 15,
          idleMs: 3,
        })
        const check = (): void => {
          const { offered, succeeded, failed, rejected, aborted, pending, inFlight } = stream.stats()
          expect(offered).toBe(succeeded + failed + rejected + aborted + pending)
          expect(inFlight).toBeGreaterThanOrEqual(0)
          expect(inFlight).toBeLessThanOrEqual(pending)
          expect(pending).toBeLessThanOrEqual(10)
        }
        let settled = 0
        for (const { key, abort, wait } of plan) {
          const controller = new AbortController()
          if (abort === 'before') controller.abort('early')
          const answer = stream.send(key, { signal: controller.signal })
          void answer.then(
            () => settled++,
            () => settled++,
          )
          if (abort === 'at once') controller.abort('now')
          if (abort === 'later') void turn().then(() => controller.abort('later'))
          check()
          if (wait) await turn()
        }
        await stream.close({ timeoutMs: closeMs })
        await turn()
        check()
        expect(settled).toBe(plan.length)
        expect(stream.stats()).toMatchObject({ offered: plan.length, pending: 0, inFlight: 0 })
        expect(await pool.close({ timeoutMs: 1000 })).toEqual({ drained: true, abandoned: 0 })
      }),
      { numRuns: 40 },
    )
  })
})
