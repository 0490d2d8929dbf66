import fc from 'fast-check'
import { expect, test } from 'vitest'
import { LinkedList, type ListNode } from '../../src/internal/linked-list.js'

type Command = { readonly do: 'push' } | { readonly do: 'shift' } | { readonly do: 'remove'; readonly at: number }

const command: fc.Arbitrary<Command> = fc.oneof(
  { weight: 3, arbitrary: fc.constant({ do: 'push' } as const) },
  { weight: 1, arbitrary: fc.constant({ do: 'shift' } as const) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('remove' as const), at: fc.nat() }) },
)

test('it behaves as an array does, whatever is pushed, shifted and removed', () => {
  fc.assert(
    fc.property(fc.array(command, { maxLength: 100 }), (commands) => {
      const list = new LinkedList<number>()
      const model: ListNode<number>[] = []
      let next = 0

      for (const each of commands) {
        if (each.do === 'push') model.push(list.push(next++))
        else if (each.do === 'shift') expect(list.shift()).toBe(model.shift()?.value)
        else if (model.length > 0) {
          const [node] = model.splice(each.at % model.length, 1)
          if (node !== undefined) list.remove(node)
        }

        expect([...list]).toEqual(model.map(({ value }) => value))
        expect(list.first).toBe(model[0]?.value)
        expect(list.last).toBe(model.at(-1)?.value)
        expect(list.empty).toBe(model.length === 0)
      }
    }),
    { numRuns: 500 },
  )
})

test('an empty list has no first, no last and nothing to shift', () => {
  const list = new LinkedList<string>()

  expect([list.first, list.last, list.shift(), list.empty, [...list]]).toEqual([
    undefined,
    undefined,
    undefined,
    true,
    [],
  ])
})

test('a node that was taken out holds on to no neighbour', () => {
  const list = new LinkedList<string>()
  list.push('a')
  const node = list.push('b')
  list.push('c')

  list.remove(node)

  expect([node.prev, node.next]).toEqual([undefined, undefined])
  expect([...list]).toEqual(['a', 'c'])
})
