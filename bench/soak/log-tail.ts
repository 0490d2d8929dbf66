const line = /^\{"level":30,"n":(\d+),"msg":"[^"]*"\}$/
const dropLine = /^\{"level":40,.*"dropped":(\d+),/
const mostProblems = 10

/** Reads a log piece by piece, and checks that every line is whole, comes once, and is in its place. */
export class LogTail {
  /** Lines that were read, without those that tell of dropped ones. */
  lines = 0
  /** How many dropped lines the log tells of. */
  told = 0
  readonly problems: string[] = []
  #last = -1

  read(text: string): void {
    if (!text.endsWith('\n')) this.#note(`a file ends within a line: ${text.slice(-60)}`)
    for (const each of text.split('\n')) if (each !== '') this.#readLine(each)
  }

  #readLine(text: string): void {
    const dropped = dropLine.exec(text)?.[1]
    if (dropped !== undefined) {
      this.told += Number(dropped)
      return
    }
    const number = Number(line.exec(text)?.[1] ?? Number.NaN)
    if (Number.isNaN(number)) return this.#note(`a line is torn: ${text.slice(0, 120)}`)
    if (number <= this.#last) this.#note(`line ${number} comes behind line ${this.#last}`)
    this.#last = number
    this.lines++
  }

  #note(problem: string): void {
    if (this.problems.length < mostProblems) this.problems.push(problem)
  }
}
