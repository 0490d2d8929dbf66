const tokens = /"(?:[^"\\]|\\.)*"|\/\/[^\n]*|\/\*[\s\S]*?\*\//g
const lastCommas = /"(?:[^"\\]|\\.)*"|(?<![[{]\s*),(?=\s*[}\]])/g

/**
 * Reads JSON with comments, as editors know it: `//` and slash-star comments, and a comma behind the last member.
 *
 * @throws SyntaxError, whose message says where.
 */
export function parseJsonc(source: string): unknown {
  // What is taken out leaves blanks, so that what is wrong is where the message says.
  const blank = (token: string): string => (token.startsWith('"') ? token : token.replaceAll(/[^\n]/g, ' '))
  const json = source
    .replace(/^\uFEFF/, '')
    .replaceAll(tokens, blank)
    .replaceAll(lastCommas, blank)
  try {
    return JSON.parse(json)
  } catch (error) {
    const { message } = error as SyntaxError
    const [, position] = /at position (\d+)/.exec(message) ?? []
    // Some messages have what stands around it in place of the position.
    if (position === undefined) throw error
    const lines = json.slice(0, Number(position)).split('\n')
    const where = `line ${lines.length}, column ${(lines.at(-1)?.length ?? 0) + 1}`
    throw new SyntaxError(`${where}: ${message.replace(/ (?:in JSON )?at position .*/, '')}`)
  }
}
