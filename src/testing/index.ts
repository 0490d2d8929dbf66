export { FakeClock, type FakeClockOptions } from './fake-clock.js'
export {
  commitThenDrop,
  type DelayOptions,
  type Faultable,
  type FlakyOptions,
  flaky,
  type HangingOptions,
  hanging,
  late,
  slow,
} from './faults.js'
export { seededRandom } from './seeded-random.js'
