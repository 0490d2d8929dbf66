import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import type { Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startChromium } from '../servers/chromium.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const site = mkdtempSync(join(tmpdir(), 'docs-site-'))
const browser = await startChromium()

beforeAll(async () => {
  // As `npm run docs`, elsewhere.
  const child = spawn(process.execPath, ['node_modules/typedoc/bin/typedoc', '--out', site], { cwd: root })
  let said = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (said += chunk))
  const [code] = await once(child, 'exit')
  if (code !== 0) throw new Error(`typedoc ended with ${code}:\n${said}`)
}, 600_000)

afterAll(async () => {
  await browser?.close()
  rmSync(site, { recursive: true, force: true })
})

/** What a page refers to: by `href` and `src`, without what is outside. */
function* targetsOf(html: string): Generator<string> {
  for (const [, target = ''] of html.matchAll(/ (?:href|src)="([^"]+)"/g)) {
    if (!/^(?:https?|mailto|data):/.test(target)) yield target.replaceAll('&amp;', '&')
  }
}

describe('npm run docs', () => {
  test('makes a site whose links all lead somewhere, and which loads nothing from elsewhere', () => {
    const pages = readdirSync(site, { recursive: true, encoding: 'utf8' }).filter((path) => path.endsWith('.html'))
    const texts = new Map(pages.map((path) => [join(site, path), readFileSync(join(site, path), 'utf8')]))
    const anchors = new Map<string, Set<string | undefined>>()
    const dead = new Set<string>()
    const foreign: string[] = []

    for (const [path, html] of texts) {
      foreign.push(...[...html.matchAll(/<(?:script|link|img)[^>]+(?:src|href)="https?:[^"]*"/g)].map(([tag]) => tag))
      for (const target of targetsOf(html)) {
        const [file = '', anchor] = target.split('#')
        const there = file === '' ? path : resolve(dirname(path), decodeURIComponent(file.split('?')[0] ?? ''))
        if (!existsSync(there)) dead.add(`${path}: ${target}`)
        else if (anchor && texts.has(there)) {
          const ids =
            anchors.get(there) ?? new Set([...(texts.get(there) ?? '').matchAll(/ id="([^"]+)"/g)].map(([, id]) => id))
          anchors.set(there, ids)
          if (!ids.has(decodeURIComponent(anchor))) dead.add(`${path}: ${target}`)
        }
      }
    }

    expect(pages.length).toBeGreaterThan(500)
    expect([...dead]).toEqual([])
    expect(foreign).toEqual([])
  })
})

describe.skipIf(browser === undefined)('the site in a browser', () => {
  /** What the search finds, as titles. */
  async function found(page: Page, word: string): Promise<string[]> {
    await page.goto(pathToFileURL(join(site, 'index.html')).href)
    await page.click('#tsd-search-trigger')
    await page.fill('#tsd-search-input', word)
    const results = page.locator('#tsd-search-results li a')
    await results.first().waitFor({ timeout: 30_000 })
    return results.allInnerTexts()
  }

  test('finds options and the guides that explain them, and asks nobody else', { timeout: 120_000 }, async () => {
    const page = await browser?.newPage()
    if (page === undefined) throw new Error('no page')
    const requests: string[] = []
    page.on('request', (request) => requests.push(request.url()))
    const errors: string[] = []
    page.on('pageerror', (error) => errors.push(error.message))

    const [waits, breaker, stale] = [
      await found(page, 'maxWaitMs'),
      await found(page, 'CircuitBreaker'),
      await found(page, 'stale'),
    ]

    expect(waits).toEqual(expect.arrayContaining(['spillway.AsyncBatcherOptions.maxWaitMs', 'AsyncBatcher']))
    expect(breaker).toEqual(expect.arrayContaining(['spillway.CircuitBreaker', 'CircuitBreaker']))
    expect(stale).toEqual(expect.arrayContaining(['spillway.LoadContext.stale', 'MultiLevelCache']))
    expect(requests.filter((url) => !/^(?:file|data|blob):/.test(url))).toEqual([])
    expect(errors).toEqual([])
  })

  test('has its parts in order, and is dark where the reader is', { timeout: 120_000 }, async () => {
    const page = await browser?.newPage()
    if (page === undefined) throw new Error('no page')
    const colours: string[] = []
    for (const colorScheme of ['light', 'dark'] as const) {
      await page.emulateMedia({ colorScheme })
      await page.goto(pathToFileURL(join(site, 'guides/which-primitive.html')).href)
      colours.push(await page.evaluate('getComputedStyle(document.body).backgroundColor'))
    }
    const groups = page.locator('#tsd-nav-container > li > details > summary')
    await groups.first().waitFor({ timeout: 30_000 })

    expect((await groups.allInnerTexts()).map((text) => text.trim())).toEqual([
      'Start',
      'Guides',
      'Coming from',
      'Adapters',
      'Design',
      'API',
    ])
    expect(new Set(colours).size).toBe(2)
  })

  test('leads from a class to its guide, and fits a phone', { timeout: 120_000 }, async () => {
    const page = await browser?.newPage({ viewport: { width: 390, height: 844 } })
    if (page === undefined) throw new Error('no page')
    const widths: number[] = []

    for (const name of ['spillway.AsyncBatcher', 'spillway.LoadBalancer', 'spillway_redis.RedisInvalidationBus']) {
      await page.goto(pathToFileURL(join(site, `classes/${name}.html`)).href)
      widths.push(await page.evaluate('document.documentElement.scrollWidth'))
    }
    await page.goto(pathToFileURL(join(site, 'classes/spillway_postgres.PostgresQuotaStore.html')).href)
    await page.locator('.tsd-comment a', { hasText: 'PostgresUsageSink and PostgresQuotaStore' }).click()

    expect(widths).toEqual([390, 390, 390])
    expect(new URL(page.url()).pathname).toMatch(/\/adapters\/postgres-quota\.html$/)
  })
})
