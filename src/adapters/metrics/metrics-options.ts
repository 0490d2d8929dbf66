import { checkBoolean, checkCount, checkOptions, valueOr } from '../../core/options.js'

/** Options of {@link instrument} and {@link prometheus}. */
export interface MetricsOptions {
  /**
   * How many members of one component have series of their own: breakers of a registry, instances of a balancer, origins of an HTTP client.
   * Those beyond are summed up under the target `other`.
   * @defaultValue 100
   */
  maxInstances?: number | undefined
  /**
   * Whether the delay of the event loop is measured, too. That takes a timer of 10 ms, which keeps no process alive.
   * @defaultValue true
   */
  eventLoop?: boolean | undefined
}

/** The defaults of {@link MetricsOptions}. */
export const metricsDefaults = { maxInstances: 100, eventLoop: true } as const

/** Options, resolved. */
export type MetricsSettings = { readonly [Option in keyof MetricsOptions]-?: NonNullable<MetricsOptions[Option]> }

/** Checks options and puts the defaults in. */
export function resolveMetricsOptions(options: MetricsOptions | undefined): MetricsSettings {
  checkOptions('options', options)
  return {
    maxInstances: checkCount('maxInstances', valueOr(options?.maxInstances, metricsDefaults.maxInstances)),
    eventLoop: checkBoolean('eventLoop', valueOr(options?.eventLoop, metricsDefaults.eventLoop)),
  }
}
