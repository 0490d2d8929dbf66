import { failOption } from '../core/options.js'

/** Checks the name of a namespace: one step of a path. */
export function checkPathName(field: string, name: string): string {
  // The path ends at a key's first ':', its steps at each '/', and no key in memory may be taken for another one's.
  if (typeof name !== 'string' || name === '' || [':', '/', '\0'].some((part) => name.includes(part))) {
    failOption(field, "must be a non-empty string without ':', '/' and NUL", name)
  }
  return name
}

/** Whether a path is another one or lies within it. */
export function isWithin(path: string, outer: string): boolean {
  return path === outer || (path.startsWith(outer) && path[outer.length] === '/')
}

/** Where an entry is. */
export interface EntryPlace {
  /** Its namespace. */
  readonly path: string
  readonly key: string
  /** Its key in memory. */
  readonly memoryKey: string
  /** The namespace whose keys, behind its prefix, lead to it; none for a root's key that begins with NUL. */
  readonly home: string
}

/**
 * One namespace's names for things: its keys in memory, in the shared tier and on the bus, and the marks that its entries depend on.
 *
 * A root's keys are in memory as they are, so that a hit makes no string; a namespace's begin with NUL, and so does, behind a colon, a
 * root's key that begins with NUL itself: a path is never empty, so that no two can meet.
 */
export class CachePath {
  readonly path: string
  readonly root: string
  /** What a key in memory begins with; empty for the root. */
  readonly memoryPrefix: string
  /** The marks that each entry here depends on: one for each namespace that it is in. */
  readonly clearMarks: readonly string[]
  readonly #prefix: string

  constructor(root: string, path: string) {
    this.root = root
    this.path = path
    this.#prefix = `${path}:`
    this.memoryPrefix = path === root ? '' : `\0${path}:`
    const steps = path.split('/')
    this.clearMarks = steps.map((_, index) => clearMark(root, steps.slice(0, index + 1).join('/')))
  }

  child(name: string): CachePath {
    return new CachePath(this.root, `${this.path}/${name}`)
  }

  /** A key's name in the shared tier and on the bus. */
  full(key: string): string {
    return this.#prefix + key
  }

  /** A key's name in memory. */
  memory(key: string): string {
    return this.memoryPrefix !== '' ? this.memoryPrefix + key : rootMemoryKey(key)
  }

  /** Where an entry is, for whoever finds it. */
  place(key: string, memoryKey: string): EntryPlace {
    const odd = this.memoryPrefix === '' && key.charCodeAt(0) === 0
    return { path: this.path, key, memoryKey, home: odd ? '' : this.path }
  }

  tagMark(tag: string): string {
    return tagMark(this.root, tag)
  }
}

function rootMemoryKey(key: string): string {
  return key.charCodeAt(0) === 0 ? `\0:${key}` : key
}

/** A key's name in memory, from the parts of its full name. */
export function memoryKeyOf(root: string, path: string, key: string): string {
  return path === root ? rootMemoryKey(key) : `\0${path}:${key}`
}

export function clearMark(root: string, path: string): string {
  return `${root}:c${path}`
}

export function tagMark(root: string, tag: string): string {
  return `${root}:t:${tag}`
}

/** The tags among the names of marks. */
export function tagsOf(root: string, marks: readonly string[]): readonly string[] {
  const prefix = `${root}:t:`
  return marks.filter((mark) => mark.startsWith(prefix)).map((mark) => mark.slice(prefix.length))
}

/** Splits a key's full name. */
export function splitFull(full: string): { readonly path: string; readonly key: string } {
  const colon = full.indexOf(':')
  return { path: full.slice(0, colon), key: full.slice(colon + 1) }
}
