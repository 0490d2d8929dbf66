/** What all caches are about: for each key the number of the write that it is as of. It knows no time and never fails. */
export class Database {
  readonly #rows = new Map<string, number>()
  #writes = 0

  /** Changes some keys in one transaction. */
  write(ids: Iterable<string>): void {
    this.#writes++
    for (const id of ids) this.#rows.set(id, this.#writes)
  }

  read(id: string): number {
    return this.#rows.get(id) ?? 0
  }
}

/** A value: which key's, as of which write. */
export interface Row {
  readonly id: string
  readonly write: number
}
