// Many single lookups, few queries: each caller still gets its own answer, or its own error.
import assert from 'node:assert/strict'
import { AsyncBatcher } from 'spillway'

interface User {
  readonly id: number
  readonly name: string
}

const table = new Map<number, User>([1, 2, 3, 4, 5].map((id) => [id, { id, name: `user ${id}` }]))
const queries: number[][] = []

/** Stands for `select … where id = any($1)`: it answers in any order and leaves out what it doesn't have. */
async function selectUsers(ids: readonly number[]): Promise<User[]> {
  queries.push([...ids])
  return [...table.values()].filter((user) => ids.includes(user.id)).reverse()
}

const users = new AsyncBatcher<number, User>(
  async (ids) => {
    const byId = new Map((await selectUsers(ids)).map((user) => [user.id, user]))
    return ids.map((id) => byId.get(id) ?? new Error(`no user ${id}`))
  },
  { name: 'users', keyOf: (id) => id },
)

// Five requests of one turn of the event loop, two of them for the same user.
const answers = await Promise.allSettled([3, 1, 3, 99, 2].map((id) => users.add(id)))

for (const answer of answers) {
  console.log(answer.status === 'fulfilled' ? answer.value.name : answer.reason.message)
}
console.log('queries:', queries)

assert.deepEqual(queries, [[3, 1, 99, 2]])
assert.deepEqual(
  answers.map((answer) => (answer.status === 'fulfilled' ? answer.value.id : answer.reason.message)),
  [3, 1, 3, 'no user 99', 2],
)

const { offered, succeeded, failed, batches } = users.stats()
console.log({ offered, succeeded, failed, batches })
assert.deepEqual({ offered, succeeded, failed, batches }, { offered: 5, succeeded: 4, failed: 1, batches: 1 })

assert.deepEqual(await users.close(), { drained: true, abandoned: 0 })
