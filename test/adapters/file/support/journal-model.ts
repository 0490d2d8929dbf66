import type { AcceptedUsage, JournalRemains } from 'spillway'

/** What a caller knows about a call: nothing yet, that it was done, that it wasn't, or that it may have been. */
export type Outcome = 'called' | 'done' | 'refused' | 'unsure'

export interface ModelUse {
  readonly event: AcceptedUsage
  position?: number
  appended: Outcome
}

export interface ModelBatch {
  readonly values: readonly number[]
  assigned: Outcome
  settled?: Outcome
  /** Of its dead letter. */
  buried?: Outcome
  requeued?: Outcome
}

/** What a journal was told, and what it may answer for that after a crash. Uses are known by their values. */
export class JournalModel {
  readonly uses: Map<number, ModelUse> = new Map()
  /** In the order of their assignment. */
  readonly batches: Map<string, ModelBatch> = new Map()
  /** Uses that were settled in an earlier life. */
  readonly gone: Set<number> = new Set()

  /** Uses that are durable and in no batch. */
  get loose(): number[] {
    const taken = new Set([...this.batches.values()].flatMap(({ values }) => values))
    return [...this.uses].filter(([value, { appended }]) => appended === 'done' && !taken.has(value)).map(([v]) => v)
  }

  /** The positions of uses. */
  positionsOf(values: readonly number[]): number[] {
    return values.map((value) => this.uses.get(value)?.position as number)
  }

  /** What is wrong with what came back; nothing where it may be so. */
  problems(
    remains: JournalRemains,
    letters: readonly { batchId: string; events: readonly AcceptedUsage[] }[],
  ): string[] {
    const problems: string[] = []
    const back = new Map<number, string | undefined>()
    const seen = (value: number, position: number, batch: string | undefined): void => {
      if (back.has(value)) problems.push(`${value} came back twice`)
      back.set(value, batch)
      const use = this.uses.get(value)
      if (this.gone.has(value)) problems.push(`${value}, settled in an earlier life, came back`)
      else if (use === undefined) problems.push(`${value} came from nowhere`)
      else if (use.position !== undefined && use.position !== position && !this.#mayBeRequeued(value)) {
        problems.push(`${value} is at ${position}, was at ${use.position}`)
      }
    }
    for (const { id, events } of remains.batches) {
      for (const { position, event } of events) seen(event.value, position, id)
      const values = events.map(({ event }) => event.value)
      const wanted = (this.batches.get(id)?.values ?? []).filter((value) => back.get(value) === id)
      if (String(values) !== String(wanted)) problems.push(`${id} came back as ${values}, not ${wanted}`)
    }
    for (const { position, event } of remains.events) seen(event.value, position, undefined)
    for (const [value, { appended }] of this.uses) {
      problems.push(...this.#problemsOf(value, appended, back.has(value), back.get(value)))
    }
    for (const [id, batch] of this.batches) problems.push(...problemsOfLetter(id, batch, back, letters))
    return problems
  }

  /** Goes on with what came back. */
  restart(remains: JournalRemains, letters: readonly { batchId: string; events: readonly AcceptedUsage[] }[]): void {
    for (const value of this.uses.keys()) this.gone.add(value)
    this.uses.clear()
    this.batches.clear()
    for (const { batchId, events } of letters) {
      const values = events.map(({ value }) => value)
      this.batches.set(batchId, { values, assigned: 'done', buried: 'done', settled: 'done' })
      for (const event of events) this.#keep(event)
    }
    for (const { id, events } of remains.batches) {
      this.batches.set(id, { values: events.map(({ event }) => event.value), assigned: 'done' })
      for (const { position, event } of events) this.#keep(event, position)
    }
    for (const { position, event } of remains.events) this.#keep(event, position)
  }

  /** What it is now, whatever happens to it later. */
  copy(): JournalModel {
    const copy = new JournalModel()
    for (const [value, use] of this.uses) copy.uses.set(value, { ...use })
    for (const [id, batch] of this.batches) copy.batches.set(id, { ...batch })
    for (const value of this.gone) copy.gone.add(value)
    return copy
  }

  #keep(event: AcceptedUsage, position?: number): void {
    this.uses.set(event.value, { event, appended: 'done', ...(position !== undefined && { position }) })
    this.gone.delete(event.value)
  }

  #assignmentsOf(value: number): [string, ModelBatch][] {
    return [...this.batches].filter(([, { values }]) => values.includes(value))
  }

  /** Requeued uses get other positions. */
  #mayBeRequeued(value: number): boolean {
    return this.#assignmentsOf(value).some(([, { requeued }]) => requeued !== undefined)
  }

  #problemsOf(value: number, appended: Outcome, isBack: boolean, batchId: string | undefined): string[] {
    const assignments = this.#assignmentsOf(value)
    const latest = assignments.findLastIndex(([, { assigned }]) => assigned === 'done')
    const possible = assignments.slice(Math.max(0, latest)).filter(([, { assigned }]) => assigned !== 'refused')
    const mayBeSettled = assignments.some(([, { settled }]) => settled !== undefined)
    const settledLast = possible.length === 1 && possible[0]?.[1].settled === 'done'
    if (!isBack) return appended === 'done' && !mayBeSettled ? [`${value} was lost`] : []
    if (appended === 'refused') return [`${value}, which was refused, came back`]
    if (settledLast && !this.#mayBeRequeued(value)) return [`${value}, which was settled, came back`]
    const allowed = [...possible.map(([id]) => id), ...(latest < 0 ? [undefined] : [])]
    return allowed.includes(batchId) ? [] : [`${value} came back in ${batchId}, not in ${allowed}`]
  }
}

/** What was given up is a dead letter, or comes back: never neither, never both. */
function problemsOfLetter(
  id: string,
  { values, buried, requeued }: ModelBatch,
  back: ReadonlyMap<number, string | undefined>,
  letters: readonly { readonly batchId: string }[],
): string[] {
  const count = letters.filter(({ batchId }) => batchId === id).length
  const isBack = values.some((value) => back.has(value))
  if (count > 1) return [`${id} is ${count} dead letters`]
  if (count === 1 && (buried === undefined || buried === 'refused')) return [`${id} is a dead letter`]
  if (count === 1 && isBack) return [`${id} came back and is a dead letter too`]
  if (count === 1 && requeued === 'done') return [`${id} was requeued and is a dead letter`]
  return buried === 'done' && count === 0 && !isBack ? [`the dead letter ${id} was lost`] : []
}
