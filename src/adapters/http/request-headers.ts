import { checkOptions, failOption } from '../../core/options.js'

/** Headers by name, in any case; a list is sent as several, undefined as none. */
export type HttpHeaders = Readonly<Record<string, string | readonly string[] | undefined>>

const nameSyntax = /^[!#$%&'*+\-.^_`|~\dA-Za-z]+$/
const valueSyntax = /^[\t\x20-\x7e\x80-\xff]*$/

/** Checks headers and puts their names in lower case. Values stay out of the errors: they may be secrets. */
export function resolveHeaders(field: string, headers: HttpHeaders | undefined): Map<string, string | string[]> {
  const resolved = new Map<string, string | string[]>()
  mergeHeaders(field, resolved, headers)
  return resolved
}

/** Refuses what looks like names and values and would come to nothing: Headers, URLSearchParams, a Map, a list. */
export function checkRecord(field: string, value: object | undefined): void {
  checkOptions(field, value)
  if (value !== undefined && Symbol.iterator in value) failOption(field, 'must be a plain object', '…')
}

/** Sets headers over others; undefined takes one away. */
export function mergeHeaders(
  field: string,
  into: Map<string, string | string[]>,
  headers: HttpHeaders | undefined,
): void {
  checkRecord(field, headers)
  for (const [name, value] of Object.entries(headers ?? {})) {
    if (!nameSyntax.test(name)) failOption(field, 'must have names that are tokens (RFC 9110)', name)
    const key = name.toLowerCase()
    if (value === undefined) {
      into.delete(key)
      continue
    }
    const values = Array.isArray(value) ? [...value] : [value]
    for (const one of values) {
      if (typeof one !== 'string') failOption(`${field}.${name}`, 'must be a string', one)
      if (!valueSyntax.test(one)) failOption(`${field}.${name}`, 'must hold no line break or control character', '…')
    }
    into.set(key, Array.isArray(value) ? values : (values[0] as string))
  }
}
