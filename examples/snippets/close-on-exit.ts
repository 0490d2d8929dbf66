// SIGTERM arrives while writes are waiting: closeOnExit writes them, and then the process ends by that signal.
import assert from 'node:assert/strict'
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { AsyncWriteBuffer } from 'spillway'
import { closeOnExit } from 'spillway/process'

if (process.argv[2] === 'service') service()
else await parent()

/** The service: it accepts three writes that would wait for a minute. */
function service(): void {
  const counts = new AsyncWriteBuffer<string, number>(tellParent, {
    merge: (old, delta) => old + delta,
    maxWaitMs: 60_000,
  })
  // What takes work in comes first; what that work flows into comes last.
  closeOnExit([counts], { timeoutMs: 5000 })

  counts.put('a', 1)
  counts.put('a', 1)
  counts.put('b', 1)
  process.send?.('ready')
}

function tellParent(entries: ReadonlyMap<string, number>): Promise<void> {
  return new Promise((resolve) => process.send?.([...entries], undefined, undefined, () => resolve()))
}

async function parent(): Promise<void> {
  const child = fork(fileURLToPath(import.meta.url), ['service'])
  const messages: unknown[] = []
  child.on('message', (message) => {
    messages.push(message)
    // What an orchestrator does at a deployment.
    if (message === 'ready') child.kill('SIGTERM')
  })

  const [code, signal] = await once(child, 'exit')

  console.log('written:', messages.at(-1), 'ended by:', signal ?? code)
  assert.deepEqual(messages, [
    'ready',
    [
      ['a', 2],
      ['b', 1],
    ],
  ])
  assert.equal(signal, 'SIGTERM')
}
