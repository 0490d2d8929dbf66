/**
 * Uses every primitive of a copy of the package, and throws unless every answer is right. It needs nothing but what every
 * JavaScript runtime has, so that it is the same for Node, Bun and an edge runtime.
 *
 * @param {typeof import('spillway')} spillway - the copy.
 * @returns {Promise<string>} what was done, in a line.
 */
export async function exercise(spillway) {
  const { AsyncBatcher, AsyncLogBuffer, AsyncWriteBuffer, CircuitBreaker, isSpillwayError, LoadBalancer } = spillway
  const { BreakerRegistry, cacheKey, consecutive, Emitter, timeWindow } = spillway
  const { CacheWarmer, MemoryQuotaStore, MultiLevelCache, QuotaConsumer, QuotaService, TokenCache } = spillway

  let calls = 0
  const square = new AsyncBatcher(
    async (numbers, { signal, attempt, batchId }) => {
      calls++
      equal(signal.aborted, false)
      equal(attempt, 1)
      equal(/^[\da-f]{8}-[\da-f]{4}-7[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/.test(batchId), true)
      return numbers.map((n) => (n === 13 ? new Error('thirteen') : n * n))
    },
    { capacity: 200 },
  )
  const settled = await Promise.allSettled(Array.from({ length: 150 }, (_, n) => square.add(n)))
  equal(calls, 2)
  settled.forEach((one, n) => {
    equal(one.status, n === 13 ? 'rejected' : 'fulfilled')
    equal(n === 13 ? one.reason.message : one.value, n === 13 ? 'thirteen' : n * n)
  })
  const many = await square.addMany([1, 2, 3])
  equal(many.map((one) => one.value).join(), '1,4,9')

  const lone = new AbortController()
  lone.abort('no longer needed')
  equal(await square.add(1, { signal: lone.signal }).catch((reason) => reason), 'no longer needed')

  const report = await square.close()
  equal(report.drained, true)
  const refused = await square.add(1).catch((error) => error)
  equal(isSpillwayError(refused, 'ERR_CLOSED'), true)
  const { offered, succeeded, failed, dropped, rejected, aborted, pending } = square.stats()
  equal(offered, 155)
  equal(offered, succeeded + failed + dropped + rejected + aborted + pending)

  const stored = new Map()
  const writes = new AsyncWriteBuffer(
    async (entries) => {
      for (const [key, value] of entries) stored.set(key, (stored.get(key) ?? 0) + value)
    },
    { merge: (old, value) => old + value, maxWaitMs: 5, maxBatchSize: 2 },
  )
  for (let n = 0; n < 300; n++) equal(writes.put(`key ${n % 3}`, 1), true)
  // What is full leaves by itself, and the rest by its timer.
  for (let tries = 0; stored.size < 3 && tries < 1000; tries++) await new Promise((resolve) => setTimeout(resolve, 1))
  equal((await writes.close()).drained, true)
  equal([...stored.values()].join(), '100,100,100')
  equal(writes.stats().succeeded, 300)

  const chunks = []
  const log = new AsyncLogBuffer({ write: async (chunk) => void chunks.push(chunk) }, { capacity: 10 })
  for (let n = 0; n < 12; n++) equal(log.write(`line ${n}`), n < 10)
  equal((await log.close()).drained, true)
  const logged = chunks.join('').trimEnd().split('\n')
  equal(logged[9], 'line 9')
  equal(JSON.parse(logged[10]).msg, '2 log lines were dropped')
  equal(log.stats().succeeded, 10)

  let wrongOption
  try {
    new AsyncBatcher(async () => [], { maxWaitMs: '10' })
  } catch (error) {
    wrongOption = error
  }
  equal(isSpillwayError(wrongOption, 'ERR_OPTION'), true)
  equal(wrongOption.message, 'maxWaitMs must be a number between 0 and 2147483647, got "10" (string)')

  const breaker = new CircuitBreaker({
    trip: spillway.countWindow({ size: 4, minimumCalls: 2 }),
    recoveryTimeoutMs: 200,
  })
  const down = () => Promise.reject(new Error('down'))
  for (let n = 0; n < 2; n++) equal((await breaker.execute(down).catch((error) => error)).message, 'down')
  const turnedAway = await breaker.execute(down).catch((error) => error)
  equal(isSpillwayError(turnedAway, 'ERR_CIRCUIT_OPEN'), true)
  for (let tries = 0; breaker.state === 'open' && tries < 1000; tries++) await new Promise((r) => setTimeout(r, 5))
  equal(await breaker.execute(async () => 'up'), 'up')
  equal(breaker.state, 'closed')

  const hosts = new BreakerRegistry({ capacity: 2, trip: consecutive(1) })
  equal(
    (
      await hosts
        .get('a')
        .execute(down)
        .catch((error) => error)
    ).message,
    'down',
  )
  equal(await hosts.get('b').execute(async () => 'up'), 'up')
  equal(hosts.get('a').state, 'open')
  equal(hosts.get('c').name, 'c')
  equal([...hosts.entries()].map(([key, { state }]) => `${key} ${state}`).join(), 'a open,c closed')
  const windowed = new CircuitBreaker({ trip: timeWindow({ minimumCalls: 1 }) })
  equal((await windowed.execute(down).catch((error) => error)).message, 'down')
  equal(windowed.state, 'open')

  const balancer = new LoadBalancer([{ id: 'a' }, { id: 'b' }], { ejection: { failureThreshold: 1 } })
  const asked = []
  const answer = await balancer.run(
    async ({ id }) => {
      asked.push(id)
      if (asked.length === 1) throw new Error('down')
      return id
    },
    { attempts: 2 },
  )
  equal(asked.join(), 'a,b')
  equal(answer, 'b')
  equal((await balancer.close()).drained, true)

  const store = new MemoryQuotaStore()
  const usage = new QuotaConsumer(store, { maxBatchSize: 4 })
  const quotas = new QuotaService({ store, consumer: usage, limitFor: () => 10 })
  for (let n = 0; n < 6; n++) await quotas.consumeQuota('ann', 'requests', 1)
  equal((await quotas.checkQuota('ann', 'requests', 4)).allowed, true)
  equal((await quotas.checkQuota('ann', 'requests', 5)).allowed, false)
  equal((await usage.close()).drained, true)
  const reservation = await quotas.reserve('ann', 'requests', 4, { id: 'r1', ttlMs: 1000 })
  const exceeded = await quotas.consumeQuotaSync('ann', 'requests', 1).catch((error) => error)
  equal(isSpillwayError(exceeded, 'ERR_QUOTA_EXCEEDED'), true)
  await reservation.settle(1)
  equal((await quotas.checkQuota('ann', 'requests', 1)).used, 7)

  let logins = 0
  const tokens = new TokenCache(async (key, { previous }) => {
    equal(previous, logins === 0 ? undefined : `${key} 1`)
    return { token: `${key} ${++logins}`, expiresInMs: 60_000 }
  })
  equal((await Promise.all(Array.from({ length: 50 }, () => tokens.get('api')))).join(), Array(50).fill('api 1').join())
  tokens.invalidate('api 1')
  equal(await tokens.get('api'), 'api 2')
  tokens.invalidate('api 2')
  equal(await tokens.get('api'), 'api 2')
  equal(tokens.stats().invalidationsHeld, 1)
  const noToken = await new TokenCache(async () => ({ token: '' })).get().catch((error) => error)
  equal(isSpillwayError(noToken, 'ERR_TOKEN'), true)
  equal((await tokens.close()).drained, true)

  let loads = 0
  const load = async (key) => {
    loads++
    await Promise.resolve()
    return { key }
  }
  const cache = new MultiLevelCache({ loadConcurrency: 2, l1: { maxEntries: 10 } })
  const readers = await Promise.all(Array.from({ length: 30 }, (_, n) => cache.getOrLoad(`k${n % 3}`, load)))
  equal(loads, 3)
  readers.forEach((value, n) => {
    equal(value, cache.peek(`k${n % 3}`))
  })
  const overtaken = cache.getOrLoad('k3', load)
  await cache.delete('k3')
  equal((await overtaken).key, 'k3')
  equal(cache.peek('k3'), undefined)
  const warmer = new CacheWarmer(cache)
  warmer.register('keys', () => ['k0', 'k3'].map((key) => ({ key, load })))
  const { loaded, skipped } = await warmer.run()
  equal(`${loaded} ${skipped}`, '1 1')
  await cache.set('tagged', null, { tags: ['t'] })
  equal(await cache.get('tagged'), null)
  await cache.invalidateTags(['t'])
  equal(await cache.get('tagged'), undefined)
  const orders = cache.namespace('orders')
  const loadedOrders = await orders.getOrLoadMany(['1', '2', '1'], async (keys) => keys.map((key) => `order ${key}`))
  equal(loadedOrders.join(), 'order 1,order 2,order 1')
  equal(await cache.get('1'), undefined)
  await orders.clear()
  equal(await orders.get('1'), undefined)
  equal(cacheKey('orders', 42, { b: 1n, a: undefined }), cacheKey('orders', 42, { a: undefined, b: 1n }))
  equal((await cache.close()).drained, true)

  const emitter = new Emitter('exercise')
  const heard = []
  const off = emitter.on('told', (what) => heard.push(what))
  emitter.emit('told', 1)
  off()
  emitter.emit('told', 2)
  equal(heard.join(), '1')

  return `${offered} items in ${square.stats().batches} batches, 300 writes in ${writes.stats().batches}`
}

/** `node:assert` is not everywhere. */
function equal(actual, expected) {
  if (!Object.is(actual, expected)) throw new Error(`expected ${String(expected)}, got ${String(actual)}`)
}
