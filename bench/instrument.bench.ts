import * as api from '@opentelemetry/api'
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks'
import { AlwaysOnSampler, BasicTracerProvider } from '@opentelemetry/sdk-trace-base'
import {
  AsyncBatcher,
  AsyncLogBuffer,
  AsyncWriteBuffer,
  CircuitBreaker,
  LoadBalancer,
  MultiLevelCache,
  QuotaConsumer,
  TokenCache,
} from 'spillway'
import { batchTracer, type Instrumentable } from 'spillway/metrics'
import { Answers, double } from './harness/answers.ts'
import { Collected, type Output } from './harness/collected.ts'
import type { Aim, Contender, Contest, Turns } from './harness/contest.ts'
import { serveSuite } from './harness/suite-process.ts'

// What a call pays for metrics of its component: the hot path of each primitive, with both outputs at once and collected once a second,
// beside the same without any. And what an item pays for tracing.

const calls = 1000
/** A few per cent, less than which two runs of the very same thing can differ by here. */
const hardly: Aim = { atMost: 1.05 }

/** A component and a turn of calls to it. */
interface Subject extends Turns {
  readonly component: Instrumentable
}

const measured = (name: string, aim: Aim | undefined, outputs: readonly Output[], make: () => Subject): Contender => ({
  name,
  ...(aim && { aim }),
  prepare: () => {
    const { component, turn, async, check } = make()
    const collected = new Collected({ subject: component }, outputs)
    return {
      async,
      turn,
      check: async () => {
        await check()
        await collected.check('subject')
      },
      note: () => collected.note(),
    }
  },
})

const contest = (name: string, make: () => Subject): Contest => ({
  name,
  operation: 'call',
  operations: calls,
  contenders: [
    measured('with OpenTelemetry and Prometheus', undefined, ['OpenTelemetry', 'Prometheus'], make),
    measured('without metrics', hardly, [], make),
    measured('with OpenTelemetry', undefined, ['OpenTelemetry'], make),
    measured('with Prometheus', undefined, ['Prometheus'], make),
  ],
})

function expectCalls(before: number, now: number): void {
  if (now - before !== calls) throw new Error(`wrong answer: ${now - before} calls, not ${calls}`)
}

/** A turn of calls that are counted by the component itself. */
function counted(component: Instrumentable, turn: Turns['turn'], async: boolean, count: () => number): Subject {
  let before = count()
  return {
    component,
    turn,
    async,
    check: () => {
      const now = count()
      expectCalls(before, now)
      before = now
    },
  }
}

const breaker = (): Subject => {
  const component = new CircuitBreaker()
  const call = async (): Promise<number> => 1
  const turn = async (): Promise<void> => {
    for (let i = 0; i < calls; i++) await component.execute(call)
  }
  return counted(component, turn, true, () => component.stats().succeeded)
}

const batcher = (): Subject => {
  const answers = new Answers(calls)
  const component = new AsyncBatcher<number, number>(double)
  return {
    component,
    async: true,
    turn: async () => {
      const first = answers.ask()
      const waits: Promise<number>[] = []
      for (let i = 0; i < calls; i++) waits.push(component.add(first + i))
      answers.take(await Promise.all(waits))
    },
    check: () => answers.check(),
  }
}

const keys = Array.from({ length: calls }, (_, i) => `post:${i}:like`)

const writeBuffer = (): Subject => {
  const component = new AsyncWriteBuffer<string, number>(async () => undefined, { merge: (old, value) => old + value })
  const subject = counted(
    component,
    () => {
      for (let i = 0; i < calls; i++) component.put(keys[i] as string, 1)
    },
    false,
    () => component.stats().succeeded,
  )
  return settled(subject, component)
}

const quota = (): Subject => {
  const component = new QuotaConsumer({ idempotent: true, write: async () => undefined }, { capacity: 10_000 })
  const subject = counted(
    component,
    () => {
      for (let i = 0; i < calls; i++) component.offer({ userId: i % 250, quotaType: 'requests', value: 1 })
    },
    false,
    () => component.stats().processedEvents,
  )
  return settled(subject, component)
}

const log = (): Subject => {
  const component = new AsyncLogBuffer({ write: async () => undefined }, { capacity: 10_000 })
  const line = `{"level":30,"msg":"${'a request was answered, and all is well '.repeat(2)}"}\n`
  const subject = counted(
    component,
    () => {
      for (let i = 0; i < calls; i++) component.write(line)
    },
    false,
    () => component.stats().succeeded,
  )
  return settled(subject, component)
}

/** What the calls of a turn began is over before they are counted. */
function settled(subject: Subject, component: { flush(): Promise<unknown> }): Subject {
  return {
    ...subject,
    check: async () => {
      await component.flush()
      await subject.check()
    },
  }
}

const peeks = (): Subject => {
  const component = new MultiLevelCache<number>({ l1: { maxEntries: 2 * calls } })
  for (const key of keys) void component.set(key, 1)
  return summed(component, () => {
    let sum = 0
    for (let i = 0; i < calls; i++) sum += component.peek(keys[i] as string) ?? Number.NaN
    return sum
  })
}

const loads = (): Subject => {
  const component = new MultiLevelCache<number>({ l1: { maxEntries: 2 * calls } })
  const load = async (): Promise<number> => 1
  return summed(component, async () => {
    let sum = 0
    for (let i = 0; i < calls; i++) sum += await component.getOrLoad(keys[i] as string, load)
    return sum
  })
}

const tokens = (): Subject => {
  const component = new TokenCache(async () => ({ token: 'x', expiresInMs: 3_600_000 }))
  return summed(component, async () => {
    let sum = 0
    for (let i = 0; i < calls; i++) sum += (await component.get()).length
    return sum
  })
}

const picks = (): Subject => {
  const component = new LoadBalancer(Array.from({ length: 20 }, (_, i) => ({ id: `host-${i}`, one: 1 })))
  return summed(component, () => {
    let sum = 0
    for (let i = 0; i < calls; i++) {
      const lease = component.pick()
      sum += lease.instance.one
      lease.release()
    }
    return sum
  })
}

/** A turn of calls each of which answers 1. The first one, which isn't checked, fills what is to be found. */
function summed(component: Instrumentable, work: () => number | Promise<number>): Subject {
  let sum = 0
  const check = (): void => {
    expectCalls(0, sum)
    sum = 0
  }
  const first = work()
  if (typeof first === 'number') {
    const turn = (): void => {
      sum = work() as number
    }
    return { component, async: false, turn, check }
  }
  return {
    component,
    async: true,
    turn: async () => {
      sum = await work()
    },
    check,
  }
}

// --- tracing

/** All adds of a turn are made within one span or in none; spans are made and thrown away. Context is kept for everybody, which costs most. */
const traced = (name: string, aim: Aim | undefined, tracing: boolean, within: boolean): Contender => ({
  name,
  ...(aim && { aim }),
  prepare: () => {
    api.context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable())
    api.trace.setGlobalTracerProvider(new BasicTracerProvider({ sampler: new AlwaysOnSampler() }))
    const answers = new Answers(calls)
    const batcher = new AsyncBatcher<number, number>(double, tracing ? { tracer: batchTracer(api) } : {})
    const turn = async (): Promise<void> => {
      const first = answers.ask()
      const waits: Promise<number>[] = []
      for (let i = 0; i < calls; i++) waits.push(batcher.add(first + i))
      answers.take(await Promise.all(waits))
    }
    const request = api.trace.getTracer('bench')
    return {
      async: true,
      turn: within
        ? () =>
            request.startActiveSpan('request', async (span) => {
              await turn()
              span.end()
            })
        : turn,
      check: () => answers.check(),
    }
  },
})

const tracing = (name: string, within: boolean): Contest => ({
  name,
  operation: 'add',
  operations: calls,
  contenders: [traced('with batchTracer', undefined, true, within), traced('without', { atMost: 2 }, false, within)],
})

await serveSuite([
  contest('CircuitBreaker.execute, closed', breaker),
  contest('AsyncBatcher.add, 1000 a turn', batcher),
  contest("AsyncWriteBuffer.put, the caller's own part", writeBuffer),
  contest("QuotaConsumer.offer, the caller's own part", quota),
  contest("AsyncLogBuffer.write, the caller's own part", log),
  contest('MultiLevelCache.peek, a hit', peeks),
  contest('MultiLevelCache.getOrLoad, a hit', loads),
  contest('TokenCache.get, a token that is there', tokens),
  contest('LoadBalancer.pick and release, 20 instances', picks),
  tracing('AsyncBatcher.add outside of any span', false),
  tracing('AsyncBatcher.add within a span that is kept', true),
])
