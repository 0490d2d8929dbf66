// The declarations that the package ships, checked as an application without `skipLibCheck` checks them. Needs `npm run build` first.
import assert from 'node:assert/strict'
import { readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'

const dist = fileURLToPath(new URL('../../dist', import.meta.url))
const paths = readdirSync(dist)
  .filter((name) => /\.d\.c?ts$/.test(name))
  .map((name) => `${dist}/${name}`)

const resolutions = {
  node16: { module: ts.ModuleKind.Node16, moduleResolution: ts.ModuleResolutionKind.Node16 },
  bundler: { module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler },
}
for (const [name, options] of Object.entries(resolutions)) {
  const program = ts.createProgram(paths, {
    ...options,
    strict: true,
    noEmit: true,
    target: ts.ScriptTarget.ES2022,
    types: ['node'],
  })
  // Only what is ours: a client's own declarations are its own matter.
  const found = paths.flatMap((path) => ts.getPreEmitDiagnostics(program, program.getSourceFile(path)))
  const lines = found.map(({ file, start, messageText }) => {
    const line = file === undefined ? '' : `${file.fileName}:${file.getLineAndCharacterOfPosition(start).line + 1} `
    return `${line}${ts.flattenDiagnosticMessageText(messageText, '\n')}`
  })
  assert.deepEqual(lines, [], `declarations under ${name}`)
}

console.log(`${paths.length} files of declarations, under ${Object.keys(resolutions).join(' and ')}`)
