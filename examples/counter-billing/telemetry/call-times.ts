import { InterceptingCall, type Interceptor } from '@grpc/grpc-js'

/** How many calls were over, and how long they took together: two looks at it make the mean of what was between them. */
export interface CallTime {
  readonly over: number
  readonly busyMs: number
}

const none: CallTime = { over: 0, busyMs: 0 }

/** How long the calls of each instance took. */
export class CallTimes {
  readonly #times = new Map<string, CallTime>()

  /** Measures the calls of one instance, from the start until their status is there. */
  interceptorOf(instance: string): Interceptor {
    return (options, nextCall) => {
      const startedAt = performance.now()
      return new InterceptingCall(nextCall(options), {
        start: (metadata, _listener, next) =>
          next(metadata, {
            onReceiveStatus: (status, nextStatus) => {
              const { over, busyMs } = this.of(instance)
              this.#times.set(instance, { over: over + 1, busyMs: busyMs + performance.now() - startedAt })
              nextStatus(status)
            },
          }),
      })
    }
  }

  of(instance: string): CallTime {
    return this.#times.get(instance) ?? none
  }
}
