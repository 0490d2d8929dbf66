import { Emitter, type Listener } from 'spillway'
import { afterEach, beforeEach, describe, expect, type MockInstance, test, vi } from 'vitest'

interface Events {
  opened: { readonly at: number }
  closed: { readonly at: number }
}

let warnings: string[]
let spy: MockInstance

beforeEach(() => {
  warnings = []
  spy = vi
    .spyOn(process, 'emitWarning')
    .mockImplementation((warning, type) => void warnings.push(`${String(type)}: ${String(warning)}`))
})

afterEach(() => {
  spy.mockRestore()
})

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

describe('emit', () => {
  test('calls the listeners of that event in the order in which they came, with one payload', () => {
    const emitter = new Emitter<Events>('gate')
    const heard: [string, object][] = []
    emitter.on('opened', (event) => heard.push(['first', event]))
    emitter.on('closed', (event) => heard.push(['other', event]))
    emitter.on('opened', (event) => heard.push(['second', event]))
    const payload = { at: 1 }

    emitter.emit('opened', payload)

    expect(heard).toEqual([
      ['first', payload],
      ['second', payload],
    ])
    expect(heard[0]?.[1]).toBe(payload)
  })

  test('without listeners does nothing', () => {
    const emitter = new Emitter<Events>('gate')

    expect(() => emitter.emit('opened', { at: 1 })).not.toThrow()
  })

  test('reaches the other listeners though one throws and one rejects', async () => {
    const emitter = new Emitter<Events>('gate')
    const heard: number[] = []
    emitter.on('opened', () => {
      throw new Error('thrown')
    })
    emitter.on('opened', (async () => {
      throw new Error('rejected')
    }) as Listener<Events['opened']>)
    emitter.on('opened', ({ at }) => heard.push(at))

    emitter.emit('opened', { at: 1 })
    await turn()

    expect(heard).toEqual([1])
    expect(warnings).toHaveLength(2)
    expect(warnings[0]).toContain("SpillwayWarning: a listener of gate's 'opened' event failed: Error: thrown")
    expect(warnings[1]).toContain("SpillwayWarning: a listener of gate's 'opened' event failed: Error: rejected")
  })

  test('warns of each listener once, however often it fails', async () => {
    const emitter = new Emitter<Events>('gate')
    emitter.on('opened', () => {
      throw new Error('always')
    })
    emitter.on('opened', () => Promise.reject(new Error('always too')) as never)

    for (let at = 0; at < 10; at++) emitter.emit('opened', { at })
    await turn()

    expect(warnings).toHaveLength(2)
  })

  test.each([
    ['a string', 'just text', 'just text'],
    ['undefined', undefined, 'undefined'],
    ['null', null, 'null'],
    ['a symbol', Symbol('odd'), 'Symbol(odd)'],
    ['an object without a prototype', Object.create(null), 'could not be read'],
    [
      'an error whose stack throws',
      Object.defineProperty(new Error('x'), 'stack', {
        get() {
          throw new Error('no stack')
        },
      }),
      'could not be read',
    ],
  ])('survives a listener that throws %s', (_, thrown, text) => {
    const emitter = new Emitter<Events>('gate')
    emitter.on('opened', () => {
      throw thrown
    })

    expect(() => emitter.emit('opened', { at: 1 })).not.toThrow()

    expect(warnings).toHaveLength(1)
    expect(warnings[0]).toContain(text)
  })

  test('survives a thenable whose then throws, and a platform that refuses warnings', () => {
    const emitter = new Emitter<Events>('gate')
    emitter.on('opened', () =>
      Object.defineProperty({}, 'then', {
        get() {
          throw new Error('no then')
        },
      }),
    )
    spy.mockImplementation(() => {
      throw new Error('no warnings here')
    })

    expect(() => emitter.emit('opened', { at: 1 })).not.toThrow()
    expect(spy).toHaveBeenCalledTimes(1)
  })
})

describe('on', () => {
  test('returns the function that takes this listener off, and only this', () => {
    const emitter = new Emitter<Events>('gate')
    const heard: string[] = []
    const off = emitter.on('opened', () => heard.push('first'))
    emitter.on('opened', () => heard.push('second'))

    off()
    off()
    emitter.emit('opened', { at: 1 })

    expect(heard).toEqual(['second'])
  })

  test('called twice with one function calls it twice, and each off takes one away', () => {
    const emitter = new Emitter<Events>('gate')
    let calls = 0
    const listener = (): void => {
      calls++
    }
    const offFirst = emitter.on('opened', listener)
    const offSecond = emitter.on('opened', listener)

    emitter.emit('opened', { at: 1 })
    const both = calls
    offFirst()
    offFirst()
    emitter.emit('opened', { at: 2 })
    const one = calls
    offSecond()
    emitter.emit('opened', { at: 3 })

    expect([both, one, calls]).toEqual([2, 3, 3])
    expect(emitter.has('opened')).toBe(false)
  })

  test.each([undefined, null, 'log', {}])('refuses %j', (listener) => {
    const emitter = new Emitter<Events>('gate')

    expect(() => emitter.on('opened', listener as never)).toThrow(/^listener must be a function, got /)
    expect(emitter.has('opened')).toBe(false)
  })
})

describe('during emit', () => {
  test('a listener that takes itself off disturbs no other', () => {
    const emitter = new Emitter<Events>('gate')
    const heard: string[] = []
    const off = emitter.on('opened', () => {
      heard.push('once')
      off()
    })
    emitter.on('opened', () => heard.push('always'))

    emitter.emit('opened', { at: 1 })
    emitter.emit('opened', { at: 2 })

    expect(heard).toEqual(['once', 'always', 'always'])
  })

  test('a listener that is added hears the next event, not this one', () => {
    const emitter = new Emitter<Events>('gate')
    const heard: string[] = []
    let added = false
    emitter.on('opened', () => {
      if (!added) emitter.on('opened', ({ at }) => heard.push(`added ${at}`))
      added = true
    })

    emitter.emit('opened', { at: 1 })
    emitter.emit('opened', { at: 2 })

    expect(heard).toEqual(['added 2'])
  })

  test('an event emitted by a listener is heard in full', () => {
    const emitter = new Emitter<Events>('gate')
    const heard: string[] = []
    emitter.on('opened', ({ at }) => emitter.emit('closed', { at }))
    emitter.on('opened', () => heard.push('opened'))
    emitter.on('closed', () => heard.push('closed'))

    emitter.emit('opened', { at: 1 })

    expect(heard).toEqual(['closed', 'opened'])
  })
})

test('has tells whether anybody listens to that event', () => {
  const emitter = new Emitter<Events>('gate')
  const before = emitter.has('opened')
  const off = emitter.on('opened', () => undefined)

  expect([before, emitter.has('opened'), emitter.has('closed')]).toEqual([false, true, false])
  off()
  expect(emitter.has('opened')).toBe(false)
})
