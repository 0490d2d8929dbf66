import { posix } from 'node:path'
import ts from 'typescript'
import { type FileTree, lineAt, root } from './file-tree.js'
import { programOf } from './program.js'

/** One `ts` fence of a page or of a doc comment. */
interface Fence {
  readonly path: string
  /** The line of its first line of code. */
  readonly line: number
  readonly code: string
}

/** The pages that people read: those at the root and in docs. */
function pagesOf(tree: FileTree): [string, string][] {
  return [...tree].filter(([path]) => /^(?:[^/]+|docs\/.+|examples\/.+|bench\/.+)\.md$/.test(path))
}

/**
 * Every `ts` fence, in pages and in the doc comments of src, compiles by itself against src: each is a whole that a reader can
 * paste.
 *
 * @returns what doesn't, each with its file, line and the compiler's word.
 */
export function checkFences(tree: FileTree): string[] {
  const byFile = new Map<string, Fence>()
  const sources = new Map<string, string>()
  for (const fence of fencesOf(tree)) {
    const file = `${fence.path}.line-${fence.line}.ts`
    byFile.set(`${root}/${file}`, fence)
    // Makes it a module even where it imports nothing, so that fences don't see each other's names.
    sources.set(file, `${fence.code}\nexport {}\n`)
  }
  if (sources.size === 0) return []
  const program = programOf(tree, sources)
  const problems: string[] = []
  for (const [file, fence] of byFile) {
    const source = program.getSourceFile(file)
    if (source === undefined) throw new Error(`${file} was not compiled`)
    for (const { start, messageText } of [
      ...program.getSyntacticDiagnostics(source),
      ...program.getSemanticDiagnostics(source),
    ]) {
      const line = fence.line + source.getLineAndCharacterOfPosition(start ?? 0).line
      problems.push(
        `${fence.path}:${line} a ts fence must compile: ${ts.flattenDiagnosticMessageText(messageText, ' ')}`,
      )
    }
  }
  return problems
}

/** Every `ts` fence of a tree. */
export function fencesOf(tree: FileTree): Fence[] {
  const fences = pagesOf(tree).flatMap(([path, text]) => fencesIn(path, text, 1))
  for (const [path, text] of tree) {
    if (!/^src\/.*\.ts$/.test(path)) continue
    for (const { 0: comment, index } of text.matchAll(/\/\*\*[\s\S]*?\*\//g)) {
      const bare = comment.replace(/^[ \t]*\*(?!\/) ?/gm, '')
      fences.push(...fencesIn(path, bare, lineAt(text, index)))
    }
  }
  return fences
}

function fencesIn(path: string, text: string, firstLine: number): Fence[] {
  const fences: Fence[] = []
  for (const { 0: whole, 1: indent = '', 2: language = '', 3: body = '', index } of text.matchAll(
    /^([ \t]*)```[ \t]*(\w*)[^\n]*\n([\s\S]*?)^[ \t]*```[ \t]*$/gm,
  )) {
    if (whole === '' || !['ts', 'typescript', 'tsx'].includes(language)) continue
    const code = body
      .split('\n')
      .map((line) => (line.startsWith(indent) ? line.slice(indent.length) : line))
      .join('\n')
    fences.push({ path, line: firstLine - 1 + lineAt(text, index) + 1, code })
  }
  return fences
}

/**
 * Every relative link of a page leads to a file of a clean clone, and its `#anchor` to a heading of that page.
 *
 * @returns what doesn't, each with its file, line and rule.
 */
export function checkLinks(tree: FileTree): string[] {
  const problems: string[] = []
  for (const [path, text] of pagesOf(tree)) {
    const prose = blankedCode(text)
    for (const { link, offset } of linksIn(prose)) {
      const broken = brokenLink(tree, path, link)
      if (broken !== undefined) problems.push(`${path}:${lineAt(prose, offset)} links to ${link}: ${broken}`)
    }
  }
  return problems
}

/** A page with its code blanked out, every line where it was. */
function blankedCode(text: string): string {
  return text
    .replace(/^([ \t]*)(```|~~~)[\s\S]*?^[ \t]*\2[ \t]*$/gm, (block) => block.replace(/[^\n]/g, ' '))
    .replace(/`[^`\n]*`/g, (code) => ' '.repeat(code.length))
}

function linksIn(prose: string): { link: string; offset: number }[] {
  const patterns = [
    /\]\(\s*<?([^\s)>]+)>?(?:\s+["'][^)]*)?\s*\)/g, // [text](link "title")
    /^ {0,3}\[[^\]]+\]:\s*<?([^\s>]+)/gm, // [name]: link
    /<(?:a|img|source)\b[^>]*?\b(?:href|src|srcset)="([^"]+)"/g,
  ]
  return patterns.flatMap((pattern) =>
    [...prose.matchAll(pattern)].map(({ 1: link = '', index }) => ({ link, offset: index })),
  )
}

function brokenLink(tree: FileTree, from: string, link: string): string | undefined {
  if (/^[a-z][a-z\d+.-]*:/i.test(link)) return undefined
  if (link.startsWith('/')) return 'a link within the repository is relative'
  const [file = '', anchor] = link.split('#')
  const target = file === '' ? from : posix.join(posix.dirname(from), decodeURIComponent(file)).replace(/\/$/, '')
  const text = tree.get(target)
  if (text === undefined) {
    const isFolder = [...tree.keys()].some((path) => path.startsWith(`${target}/`))
    return isFolder || target === '.' ? undefined : `there is no ${target}`
  }
  if (anchor === undefined || !target.endsWith('.md')) return undefined
  return anchorsOf(text).has(anchor) ? undefined : `${target} has no heading #${anchor}`
}

/** The anchors of a page's headings, as GitHub makes them. */
function anchorsOf(text: string): Set<string> {
  const seen = new Map<string, number>()
  const anchors = new Set<string>()
  const withoutFences = text.replace(/^([ \t]*)(```|~~~)[\s\S]*?^[ \t]*\2[ \t]*$/gm, '')
  for (const [, heading = ''] of withoutFences.matchAll(/^#{1,6}[ \t]+(.+?)[ \t#]*$/gm)) {
    const slug = heading
      .replace(/\[([^\]]*)\]\([^)]*\)/g, '$1')
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\p{M}_\- ]/gu, '')
      .replaceAll(' ', '-')
    const times = seen.get(slug) ?? 0
    seen.set(slug, times + 1)
    anchors.add(times === 0 ? slug : `${slug}-${times}`)
  }
  for (const [, name = ''] of text.matchAll(/<a\b[^>]*?\b(?:id|name)="([^"]+)"/g)) anchors.add(name)
  return anchors
}
