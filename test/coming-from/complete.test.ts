import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { BentoCache } from 'bentocache'
import * as cockatiel from 'cockatiel'
import DataLoader from 'dataloader'
import Opossum from 'opossum'
import PQueue from 'p-queue'
import { SonicBoom } from 'sonic-boom'
import { describe, expect, test } from 'vitest'

// Every option and method that a peer has is somewhere on its page: a new major version of a peer is noticed here.

const textOf = (path: string): string => readFileSync(fileURLToPath(new URL(`../../${path}`, import.meta.url)), 'utf8')

/** What a class offers, inherited emitters left out. */
const membersOf = (type: { readonly prototype: object }): string[] =>
  Object.getOwnPropertyNames(type.prototype).filter((name) => name !== 'constructor' && !name.startsWith('_'))

/** The properties that a declaration has between two texts. */
function declaredIn(path: string, from: string, to: string): string[] {
  const text = textOf(`node_modules/${path}`)
  const start = text.indexOf(from)
  if (start === -1) throw new Error(`${path} has no ${from}`)
  const part = text.slice(start, text.indexOf(to, start)).replace(/\/\*[\s\S]*?\*\//g, '')
  return [...part.matchAll(/^\s*(?:readonly )?(\w+)\??:/gm)].map(([, name = '']) => name)
}

/** The names that a page doesn't mention. */
function missingOf(page: string, names: readonly string[]): string[] {
  expect(names.length).toBeGreaterThan(3)
  const text = textOf(`docs/coming-from/${page}.md`)
  return names.filter((name) => !new RegExp(`\\b${name}\\b`).test(text))
}

describe('the page has every part of', () => {
  test('opossum', () => {
    const options = declaredIn('@types/opossum/index.d.ts', 'interface Options<', 'interface Status ')

    expect(missingOf('opossum', [...membersOf(Opossum), ...options, 'isOurError', 'newStatus'])).toEqual([])
  })

  test('cockatiel', () => {
    // What its functions make isn't made by hand.
    const made = /^(?:__esModule|default|\w+Policy|Policy|EventEmitter|Event)$/
    const exported = Object.keys(cockatiel).filter((name) => !made.test(name))

    expect(
      missingOf('cockatiel', [
        ...exported,
        ...membersOf(cockatiel.CircuitBreakerPolicy).filter((it) => !['halfOpen', 'open', 'close'].includes(it)),
      ]),
    ).toEqual([])
  })

  test('dataloader', () => {
    const options = declaredIn('dataloader/index.d.ts', 'export type Options<', '};')

    expect(missingOf('dataloader', [...membersOf(DataLoader), ...options])).toEqual([])
  })

  test('p-queue', () => {
    const options = declaredIn('p-queue/dist/options.d.ts', 'export type Options<', 'export type TaskOptions')

    const deprecated = 'carryoverConcurrencyCount'
    expect(
      missingOf(
        'p-queue',
        [...membersOf(PQueue), ...options].filter((it) => it !== deprecated),
      ),
    ).toEqual([])
  })

  test('sonic-boom', () => {
    const options = declaredIn('sonic-boom/types/index.d.ts', 'export type SonicBoomOpts', '}\n')
    const methods = ['write', 'flush', 'flushSync', 'reopen', 'end', 'destroy']
    expect(membersOf(SonicBoom).filter((it) => !methods.includes(it))).toEqual([])

    expect(missingOf('sonic-boom', [...methods, ...options])).toEqual([])
  })

  test('bentocache', () => {
    const declarations = textOf('node_modules/bentocache/build/index.d.ts').match(/bento_cache-[\w-]+/)?.[0]
    const options = declaredIn(`bentocache/build/${declarations}.d.ts`, 'type RawCommonOptions = {', '};')

    expect(missingOf('bentocache', [...membersOf(BentoCache), ...options])).toEqual([])
  })
})
