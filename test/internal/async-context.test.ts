import { AsyncLocalStorage } from 'node:async_hooks'
import { afterEach, expect, test, vi } from 'vitest'
import { captureContext } from '../../src/internal/async-context.js'

afterEach(() => {
  vi.unstubAllGlobals()
})

test('a function runs in the context in which it was captured, with its arguments and its answer', () => {
  const tenant = new AsyncLocalStorage<string>()
  const inContext = tenant.run('maker', captureContext)

  const answer = tenant.run('caller', () => inContext((a: number, b: number) => [a + b, tenant.getStore()], 1, 2))

  expect(answer).toEqual([3, 'maker'])
})

test('the caller stays in its own context', () => {
  const tenant = new AsyncLocalStorage<string>()
  const inContext = tenant.run('maker', captureContext)

  tenant.run('caller', () => {
    inContext(() => undefined)
    expect(tenant.getStore()).toBe('caller')
  })
})

test('what throws throws through', () => {
  const inContext = captureContext()

  expect(() =>
    inContext(() => {
      throw new Error('through')
    }),
  ).toThrow('through')
})

test.each<[string, unknown]>([
  ['no process', undefined],
  ['a process without getBuiltinModule', {}],
  ['no async_hooks', { getBuiltinModule: () => undefined }],
  ['no AsyncLocalStorage', { getBuiltinModule: () => ({}) }],
  ['no snapshot', { getBuiltinModule: () => ({ AsyncLocalStorage: class {} }) }],
])('on a platform with %s, functions just run', (_, process) => {
  vi.stubGlobal('process', process)
  const inContext = captureContext()
  vi.unstubAllGlobals()

  expect(inContext((a: number) => a + 1, 1)).toBe(2)
})
