export type { BatchTracer, TracedBatch } from '../../core/ports.js'
export {
  type BatchSpanKind,
  type BatchTracerOptions,
  batchTracer,
  batchTracerDefaults,
  type SpanTracer,
  type TraceSpan,
  type TraceSpanContext,
  type TracingApi,
} from './batch-tracer.js'
export {
  type BatchObservation,
  type HistogramInstrument,
  type InstrumentOptions,
  instrument,
  type MetricsMeter,
} from './instrument.js'
export type { MetricAttributes, MetricType } from './metric.js'
export { type MetricDescription, type MetricsCatalog, metricsCatalog, type StatsMapping } from './metrics-catalog.js'
export { type MetricsOptions, metricsDefaults } from './metrics-options.js'
export type {
  BreakerRegistryLike,
  Components,
  GenericPoolLike,
  Instrumentable,
  PgPoolLike,
  StatsComponent,
  UndiciAgentLike,
} from './named-components.js'
export { prometheus } from './prometheus.js'
export type { PrometheusRegistry } from './prometheus-family.js'
