import {
  CircuitState,
  ConsecutiveBreaker,
  ConstantBackoff,
  CountBreaker,
  circuitBreaker,
  handleAll,
  retry,
  TimeoutStrategy,
  timeout,
} from 'cockatiel'
import { AsyncBatcher, CircuitBreaker, countWindow } from 'spillway'
import { FakeClock } from 'spillway/testing'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'

// What docs/coming-from/cockatiel.md says, held against both libraries.

const down = (): Promise<string> => Promise.reject(new Error('down'))
const ignored = (answer: Promise<unknown>) => answer.catch((error: unknown) => error)

beforeEach(() => {
  vi.useFakeTimers()
})

afterEach(() => {
  vi.useRealTimers()
})

test('half-open, calls beside the probe wait in cockatiel, and are turned away in spillway', async () => {
  const clock = new FakeClock()
  const theirs = circuitBreaker(handleAll, { breaker: new ConsecutiveBreaker(1), halfOpenAfter: 1000 })
  const ours = new CircuitBreaker({ failureThreshold: 1, recoveryTimeoutMs: 1000, clock })
  await ignored(theirs.execute(down))
  await ignored(ours.execute(down))
  await vi.advanceTimersByTimeAsync(1000)
  await clock.advance(1000)
  const never = () => new Promise<never>(() => undefined)
  let settled = false

  void theirs.execute(never)
  void ours.execute(never)
  void theirs
    .execute(() => 'fine')
    .finally(() => {
      settled = true
    })
  const refusal = await ignored(ours.execute(() => 'fine'))
  await vi.advanceTimersByTimeAsync(3_600_000)

  expect(theirs.state).toBe(CircuitState.HalfOpen)
  expect(settled).toBe(false)
  expect(refusal).toMatchObject({ code: 'ERR_CIRCUIT_OPEN' })
})

test('a probe that never ends counts as failed in spillway', async () => {
  const clock = new FakeClock()
  const ours = new CircuitBreaker({ failureThreshold: 1, recoveryTimeoutMs: 1000, clock })
  await ignored(ours.execute(down))
  await clock.advance(1000)
  void ours.execute(() => new Promise(() => undefined))

  await clock.advance(2000)

  expect(await ours.execute(() => 'fine')).toBe('fine')
  expect(ours.state).toBe('closed')
})

test('maxAttempts of cockatiel counts the retries, attempts of spillway all calls', async () => {
  const clock = new FakeClock()
  let theirCalls = 0
  let ourCalls = 0
  const policy = retry(handleAll, { maxAttempts: 3, backoff: new ConstantBackoff(10) })
  const batcher = new AsyncBatcher<string, string>(
    async () => {
      ourCalls++
      throw new Error('down')
    },
    { retry: { attempts: 3, delayMs: 10 }, clock },
  )

  const theirs = ignored(
    policy.execute(() => {
      theirCalls++
      return down()
    }),
  )
  await vi.advanceTimersByTimeAsync(1000)
  await theirs
  await ignored(clock.until(batcher.add('a')))

  expect(theirCalls).toBe(4)
  expect(ourCalls).toBe(3)
})

test('a time-out that the function ignores holds the caller in a cooperative policy, and not in spillway', async () => {
  const clock = new FakeClock()
  const theirs = timeout(100, TimeoutStrategy.Cooperative)
  const ours = new CircuitBreaker({ timeoutMs: 100, clock })
  const never = () => new Promise<never>(() => undefined)
  let settled = false

  void theirs.execute(never).finally(() => {
    settled = true
  })
  const answer = ignored(ours.execute(never))
  await vi.advanceTimersByTimeAsync(3_600_000)
  await clock.advance(100)

  expect(settled).toBe(false)
  expect(await answer).toMatchObject({ code: 'ERR_TIMEOUT' })
})

test('a listener that throws fails the call of cockatiel, and nothing of spillway', async () => {
  const theirs = circuitBreaker(handleAll, { breaker: new ConsecutiveBreaker(1), halfOpenAfter: 1000 })
  const ours = new CircuitBreaker({ failureThreshold: 1, clock: new FakeClock() })
  theirs.onBreak(() => {
    throw new Error('of the listener')
  })
  ours.on('opened', () => {
    throw new Error('of the listener')
  })

  expect(await ignored(theirs.execute(down))).toMatchObject({ message: 'of the listener' })
  expect(await ignored(ours.execute(down))).toMatchObject({ message: 'down' })
})

test('CountBreaker waits for its whole window unless it is told otherwise, as countWindow does for ten calls', async () => {
  const theirs = circuitBreaker(handleAll, {
    breaker: new CountBreaker({ threshold: 0.5, size: 100 }),
    halfOpenAfter: 1000,
  })
  const ours = new CircuitBreaker({ trip: countWindow({ size: 100, failureRate: 0.5 }), clock: new FakeClock() })

  for (let i = 0; i < 10; i++) await ignored(ours.execute(down))
  for (let i = 0; i < 99; i++) await ignored(theirs.execute(down))

  expect(ours.state).toBe('open')
  expect(theirs.state).toBe(CircuitState.Closed)
  await ignored(theirs.execute(down))
  expect(theirs.state).toBe(CircuitState.Open)
})
