import { checkDuration, checkOptions, failOption } from '../../core/options.js'
import type { CacheMark, CacheWrite } from '../../core/ports.js'
import { checkPayload } from './cache-payload.js'

/** Checks keys, or names of marks. */
export function checkTexts(field: string, texts: readonly string[]): void {
  checkList(field, texts)
  for (let i = 0; i < texts.length; i++) {
    if (typeof texts[i] !== 'string') failOption(`${field}[${i}]`, 'must be a string', texts[i])
  }
}

/** Checks writes, all of them before any is sent. */
export function checkWrites(writes: readonly CacheWrite[]): void {
  checkList('writes', writes)
  for (let i = 0; i < writes.length; i++) checkWrite(`writes[${i}]`, writes[i] as CacheWrite)
}

function checkWrite(field: string, write: CacheWrite): void {
  if (write === undefined) failOption(field, 'must be an object', write)
  checkOptions(field, write)
  const { key, value, freshMs, keptMs, marks, ifVersion } = write
  if (typeof key !== 'string') failOption(`${field}.key`, 'must be a string', key)
  checkPayload(`${field}.value`, value)
  checkDuration(`${field}.freshMs`, freshMs, 0, Number.POSITIVE_INFINITY)
  checkDuration(`${field}.keptMs`, keptMs, freshMs, Number.POSITIVE_INFINITY)
  checkMarks(`${field}.marks`, marks)
  if (ifVersion !== undefined && typeof ifVersion !== 'string') {
    failOption(`${field}.ifVersion`, 'must be a string', ifVersion)
  }
}

function checkMarks(field: string, marks: readonly CacheMark[]): void {
  checkList(field, marks)
  for (let i = 0; i < marks.length; i++) {
    const { name, mark } = marks[i] ?? ({} as Partial<CacheMark>)
    if (typeof name !== 'string' || typeof mark !== 'string') {
      failOption(`${field}[${i}]`, 'must be a mark, with a name and a state that are strings', marks[i])
    }
  }
}

function checkList(field: string, list: unknown): void {
  if (!Array.isArray(list)) failOption(field, 'must be an array', list)
}
