import { onTestFinished } from 'vitest'
import { type Command, demoCommand, type ProcessGroup, startGroup } from './process-group.ts'

export { demoCommand } from './process-group.ts'

/** Starts a command in a process group that ends with the test. */
export function startCommand(command: Command, env?: Readonly<Record<string, string>>): ProcessGroup {
  const group = startGroup(command, env)
  onTestFinished(() => group.signal('SIGKILL'))
  return group
}

/** Starts the demo likewise. */
export function startDemo(flags: readonly string[], env?: Readonly<Record<string, string>>): ProcessGroup {
  return startCommand([...demoCommand, ...flags], env)
}
