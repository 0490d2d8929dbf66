import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'

/** What the page consists of. */
export interface Assets {
  readonly script: string
  readonly style: string
  readonly dark: string
  readonly icon: string
  /** The page, for a browser that may ask for faults if it has this token. */
  page(token: string | undefined): string
}

let assets: Promise<Assets> | undefined

/** Bundles the page, with the charts of uPlot, when it is first asked for. */
export function assetsOfPage(): Promise<Assets> {
  assets ??= bundle()
  return assets
}

async function bundle(): Promise<Assets> {
  const { build } = await import('esbuild')
  const pathOf = (name: string): string => fileURLToPath(new URL(`./page/${name}`, import.meta.url))
  const { outputFiles } = await build({
    entryPoints: ['main.ts', 'page.css', 'dark.css'].map(pathOf),
    bundle: true,
    minify: true,
    write: false,
    outdir: '/',
    format: 'esm',
    target: 'es2022',
    tsconfigRaw: '{}',
  })
  const textOf = (ending: string): string => outputFiles.find(({ path }) => path.endsWith(ending))?.text ?? ''
  const html = await readFile(pathOf('index.html'), 'utf8')
  const icon = await readFile(pathOf('icon.svg'), 'utf8')
  const page = (token: string | undefined): string => html.replace('{{token}}', token ?? '')
  return { script: textOf('main.js'), style: textOf('page.css'), dark: textOf('dark.css'), icon, page }
}
