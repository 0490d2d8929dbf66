/** What no log may have, whatever goes wrong. */
const alarming =
  /SpillwayWarning|MaxListenersExceeded|unhandled[a-z ]*rejection|uncaught|\b(?:Type|Reference|Range)Error\b|\bLOST\b|heap out of memory/i

/** What a log may have at the level of an error, where the disk was full. */
const ofTheDisk = /the journal failed to|ENOSPC|no space left/

/**
 * Finds what a part said that it must not have to say: a promise or a warning that nobody handled, a bug's error, something lost, or
 * anything at the level of an error.
 */
export function scanLog(text: string, diskWasFull: boolean): string[] {
  const found = new Map<string, number>()
  for (const line of text.split('\n')) {
    const isError = /^\{"level":(?:50|60),/.test(line)
    if (!isError && !alarming.test(line)) continue
    if (diskWasFull && ofTheDisk.test(line) && !alarming.test(line)) continue
    // The same again and again is said once.
    const message = messageOf(line).slice(0, 400)
    const kind = message.replaceAll(/\d+/g, 'N')
    const [known] = [...found.keys()].filter((other) => other.replaceAll(/\d+/g, 'N') === kind)
    found.set(known ?? message, (found.get(known ?? message) ?? 0) + 1)
  }
  return [...found].map(([message, times]) => (times === 1 ? message : `${message} (${times} times)`))
}

function messageOf(line: string): string {
  try {
    return String((JSON.parse(line) as { msg?: unknown }).msg)
  } catch {
    return line
  }
}
