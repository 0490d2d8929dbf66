/** What a {@link SimulationError} is made of. */
interface Failure {
  readonly name: string
  readonly seed: number | string
  readonly cause: unknown
  readonly repeats: boolean
  readonly atMs: number
  readonly trace: readonly string[]
  readonly entries: number
}

/** A seed of a simulation has failed. The message names the seed, says how to run it alone, and ends with its trace. */
export class SimulationError extends Error {
  /** The seed that failed. */
  readonly seed: number | string
  /** When it had failed, in milliseconds of its virtual time. */
  readonly atMs: number
  /** Whether it failed again, in the same way, when it ran a second time. If not, something takes time or chance from elsewhere. */
  readonly repeats: boolean
  /** The latest entries of its trace, oldest first. */
  readonly trace: readonly string[]

  /** @internal */
  constructor(failure: Failure) {
    super(messageOf(failure), { cause: failure.cause })
    this.seed = failure.seed
    this.atMs = failure.atMs
    this.repeats = failure.repeats
    this.trace = failure.trace
  }

  /** The class's name. */
  override get name(): string {
    return 'SimulationError'
  }
}

function messageOf({ name, seed, cause, repeats, atMs, trace, entries }: Failure): string {
  const reason = cause instanceof Error ? `${cause.name}: ${cause.message}` : String(cause)
  const lines = [
    `${name}: seed ${JSON.stringify(seed)} failed at ${atMs} ms: ${reason}`,
    `run it alone: SIMULATION_SEED=${seed}, or { seeds: [${JSON.stringify(seed)}] }`,
  ]
  if (!repeats) lines.push('a second run of the seed went another way: something takes time or chance from elsewhere')
  if (trace.length > 0) lines.push(`trace${entries > trace.length ? ` (the last ${trace.length} of ${entries})` : ''}:`)
  return [...lines, ...trace.map((entry) => `  ${entry}`)].join('\n')
}
