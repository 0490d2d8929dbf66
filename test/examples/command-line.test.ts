import { describe, expect, test } from 'vitest'
import { fitted } from '../../examples/counter-billing/command-line.ts'

const help = `Starts this and that, and compares what it was told with what it knows of it, in
the end.

  npm run it -- [flags]

  --seconds N   how long it lasts, which is as long as it takes and not a second longer
                than that (8)
  --help        this text

With servers, they are asked; without them, nobody is. To use servers, name them:
  REDIS_URL=redis://host:6379 DATABASE_URL=postgres://user:password@host:5432/database npm run it
Ends with 0.`

describe('a help', () => {
  test('is as it was written where there is room for it, and where nobody says how much there is', () => {
    expect(fitted(help, 120)).toBe(help)
    expect(fitted(help, undefined)).toBe(help)
  })

  test('is as wide as the terminal, but for commands, which one may want to copy', () => {
    expect(fitted(help, 50)).toBe(`Starts this and that, and compares what it was
told with what it knows of it, in the end.

  npm run it -- [flags]

  --seconds N   how long it lasts, which is as
                long as it takes and not a second
                longer than that (8)
  --help        this text

With servers, they are asked; without them, nobody
is. To use servers, name them:
  REDIS_URL=redis://host:6379 DATABASE_URL=postgres://user:password@host:5432/database npm run it
Ends with 0.`)
  })
})
