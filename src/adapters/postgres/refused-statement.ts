/** Statements that would reach into the queries behind them on the same connection. */
const transactionControl = new Set(['BEGIN', 'START', 'COMMIT', 'END', 'ROLLBACK', 'ABORT', 'SAVEPOINT', 'RELEASE'])

/**
 * What a statement is that must not share a connection: transaction control, which would put the queries of other callers into
 * one transaction, and COPY, which swallows the messages behind it. Undefined where it may.
 */
export function refusedStatement(text: string): string | undefined {
  const keyword = /^[a-z]+/i.exec(text.slice(startOf(text)))?.[0].toUpperCase() ?? ''
  if (transactionControl.has(keyword)) return `transaction control (${keyword})`
  if (keyword === 'COPY') return keyword
  return keyword === 'PREPARE' && /\btransaction\b/i.test(text) ? 'PREPARE TRANSACTION' : undefined
}

/** Where a statement begins: after white space, comments, which may be nested, and empty statements. */
function startOf(text: string): number {
  let at = 0
  while (at < text.length) {
    if (/[\s;]/.test(text[at] as string)) at++
    else if (text.startsWith('--', at)) {
      const end = text.slice(at).search(/[\n\r]/)
      at = end < 0 ? text.length : at + end
    } else if (text.startsWith('/*', at)) at = endOfComment(text, at)
    else break
  }
  return at
}

function endOfComment(text: string, start: number): number {
  let depth = 0
  let at = start
  do {
    if (text.startsWith('/*', at)) {
      depth++
      at += 2
    } else if (text.startsWith('*/', at)) {
      depth--
      at += 2
    } else at++
  } while (depth > 0 && at < text.length)
  return at
}
