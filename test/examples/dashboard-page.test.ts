import axe from 'axe-core'
import type { Browser, Page } from 'playwright-core'
import { MemoryCounterStore } from 'spillway/testing'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { type GatewayServiceOptions, startGateway } from '../../examples/counter-billing/service.ts'
import { startChromium } from '../servers/chromium.ts'
import { type DashboardDemo, startDashboardDemo } from './dashboard-demo.ts'

const patience = { timeout: 60_000, interval: 100 }
const testMs = 180_000
/** A browser may have to be fetched first. */
const setUpMs = 400_000

const newStores = () => ({ live: new MemoryCounterStore(), durable: new MemoryCounterStore() })

const browser = await startChromium()
afterAll(() => browser?.close())

interface Look {
  readonly theme?: 'light' | 'dark'
  readonly width?: number
  readonly reducedMotion?: 'reduce'
}

/** A page of the dashboard, and what it asked for and complained of. */
async function open(url: string, { theme = 'light', width = 1280, reducedMotion }: Look = {}) {
  const context = await (browser as Browser).newContext({
    viewport: { width, height: 900 },
    colorScheme: theme,
    ...(reducedMotion && { reducedMotion }),
  })
  onTestFinished(() => context.close())
  const page = await context.newPage()
  const complaints: string[] = []
  const asked: string[] = []
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) complaints.push(message.text())
  })
  page.on('pageerror', (error) => complaints.push(String(error)))
  page.on('request', (request) => asked.push(request.url()))
  await page.goto(`${url}/dashboard`)
  await expect.poll(() => page.locator('#connection').textContent(), patience).toBe('live')
  await expect.poll(() => page.locator('#figures dt').count(), patience).toBeGreaterThan(3)
  return { page, complaints, asked }
}

async function startService(options: Partial<GatewayServiceOptions> = {}) {
  const service = await startGateway({
    counters: newStores(),
    ports: [0],
    dashboard: {},
    log: () => undefined,
    ...options,
  })
  return { url: service.url, close: () => service.close() }
}

async function send(url: string): Promise<void> {
  const response = await fetch(`${url}/api/v1/counter/increment`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ resource_id: 'post', counter_type: 'like', delta: 1 }),
  })
  expect(response.status).toBe(202)
}

/** What stands in a chart's legend. */
function value(page: Page, chart: string, line: string): Promise<string | null> {
  return page.locator(`#${chart} .legend button`, { hasText: line }).locator('.value').textContent()
}

/** What a chart has drawn. */
function picture(page: Page, chart: string): Promise<string> {
  return page.locator(`#${chart} canvas`).evaluate((canvas) => (canvas as HTMLCanvasElement).toDataURL())
}

function state(page: Page, name: string | RegExp): Promise<string | null> {
  return page.locator('.states li', { hasText: name }).locator('.badge').textContent()
}

async function happened(page: Page): Promise<string> {
  return (await page.locator('#happenings li').allTextContents()).join('\n')
}

/** Rules of axe for WCAG 2.2, A and AA, that the page breaks. */
async function broken(page: Page): Promise<string[]> {
  await page.evaluate(axe.source)
  return page.evaluate(async () => {
    const { axe } = globalThis as unknown as { axe: typeof import('axe-core') }
    const { violations } = await axe.run(document, {
      runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'],
    })
    return violations.map(
      ({ id, nodes }) =>
        `${id}: ${nodes.map(({ target, failureSummary }) => `${target.join(' ')} ${failureSummary}`).join('; ')}`,
    )
  })
}

describe.skipIf(browser === undefined)('the page of a gateway', { timeout: testMs }, () => {
  test('loads without a complaint, asks nobody else, and has no fault panel', async () => {
    const service = await startService()
    onTestFinished(() => service.close())

    const { page, complaints, asked } = await open(service.url)
    await expect.poll(() => value(page, 'requests', '2xx'), patience).toBe('0/s')
    // There are no instances, whatever one wants to see of them.
    await page.getByRole('button', { name: 'Outstanding' }).click()
    expect(await page.locator('#instances .legend li').count()).toBe(0)

    expect(complaints).toEqual([])
    expect(asked.length).toBeGreaterThan(3)
    for (const address of asked) expect(address).toContain(`${service.url}/dashboard`)
    expect(await page.locator('#faults').isVisible()).toBe(false)
    expect(await page.getByRole('button', { name: /dead|slow|kill|burst|clear/i }).count()).toBe(0)
    expect(await broken(page)).toEqual([])
  })

  test('moves with the load, and stands still while it is paused', async () => {
    const service = await startService()
    onTestFinished(() => service.close())
    const { page } = await open(service.url)
    await expect.poll(() => page.locator('#requests canvas').count(), patience).toBe(1)
    const quiet = await picture(page, 'requests')

    const timer = setInterval(() => void send(service.url), 50)
    onTestFinished(() => clearInterval(timer))

    await expect.poll(() => value(page, 'requests', '2xx'), patience).toMatch(/^[1-9]/)
    expect(await picture(page, 'requests')).not.toBe(quiet)
    expect(await value(page, 'latency', 'p99')).toMatch(/^[\d.]+\sm?s$/)
    await expect.poll(() => value(page, 'write-batches', 'durable writes'), patience).toMatch(/^[1-9]/)

    await page.getByRole('button', { name: 'Pause' }).click()
    const [before, drawn] = [
      await page.locator('#requests .plot').getAttribute('aria-valuetext'),
      await picture(page, 'requests'),
    ]
    await page.waitForTimeout(2_500)
    expect(await page.locator('#requests .plot').getAttribute('aria-valuetext')).toBe(before)
    expect(await picture(page, 'requests')).toBe(drawn)
    await page.getByRole('button', { name: 'Resume' }).click()
    await expect.poll(() => picture(page, 'requests'), patience).not.toBe(drawn)
  })

  test('tells what was at a moment, by pointer and by keyboard, and hides a line on demand', async () => {
    const service = await startService()
    onTestFinished(() => service.close())
    const { page } = await open(service.url)
    const plot = page.locator('#requests .plot')
    await expect.poll(async () => Number(await plot.getAttribute('aria-valuemax')), patience).toBeGreaterThan(2)

    await plot.focus()
    await page.keyboard.press('Home')
    expect(await plot.getAttribute('aria-valuenow')).toBe('0')
    await page.keyboard.press('ArrowRight')
    expect(await plot.getAttribute('aria-valuenow')).toBe('1')
    expect(await plot.getAttribute('aria-valuetext')).toMatch(/^\d\d:\d\d:\d\d: 2xx done [\d.]+\/s, 4xx refused 0\/s/)
    expect(await page.locator('#requests .tip').isVisible()).toBe(true)
    await page.keyboard.press('Escape')
    expect(await page.locator('#requests .tip').isVisible()).toBe(false)

    const box = (await plot.locator('.u-over').boundingBox()) ?? { x: 0, y: 0, width: 0, height: 0 }
    await page.mouse.move(box.x + box.width - 4, box.y + box.height / 2)
    await expect.poll(() => page.locator('#requests .tip').isVisible(), patience).toBe(true)
    expect(await page.locator('#requests .tip').textContent()).toContain('2xx done')

    await page.locator('#requests .legend button', { hasText: '4xx' }).click()
    await expect.poll(() => plot.getAttribute('aria-valuetext'), patience).not.toContain('4xx')
  })

  test('comes back by itself when the gateway does', async () => {
    const first = await startService()
    const { page } = await open(first.url)
    const port = Number(new URL(first.url).port)

    await first.close()
    await expect.poll(() => page.locator('#connection').textContent(), patience).toBe('reconnecting')
    const second = await startService({ ports: [port] })
    onTestFinished(() => second.close())

    await expect.poll(() => page.locator('#connection').textContent(), patience).toBe('live')
    expect(await happened(page)).toMatch(/the gateway is back[\s\S]*the gateway is gone/)
    await send(second.url)
    await expect
      .poll(() => page.locator('#requests .plot').getAttribute('aria-valuetext'), patience)
      .toMatch(/2xx done [\d.]+\/s/)
  })

  test('comes back where the answer was no, too', async () => {
    const service = await startService()
    onTestFinished(() => service.close())
    const { page } = await open(service.url)
    await page.route('**/dashboard/events', (route) => route.fulfill({ status: 503 }), { times: 2 })

    await page.reload()
    await expect.poll(() => page.locator('#connection').textContent(), patience).toBe('reconnecting')

    await expect.poll(() => page.locator('#connection').textContent(), patience).toBe('live')
  })

  test('stands still while it is paused, even where the gateway is another one', async () => {
    const first = await startService()
    const { page } = await open(first.url)
    const port = Number(new URL(first.url).port)
    const shown = (): Promise<string | null> => page.locator('#requests .plot').getAttribute('aria-valuetext')
    await expect.poll(shown, patience).toMatch(/2xx done/)

    await page.getByRole('button', { name: 'Pause' }).click()
    const before = await shown()
    await page.waitForTimeout(2_500)
    await first.close()
    await expect.poll(() => page.locator('#connection').textContent(), patience).toBe('reconnecting')
    const second = await startService({ ports: [port] })
    onTestFinished(() => second.close())
    await expect.poll(() => page.locator('#connection').textContent(), patience).toBe('live')

    expect(await shown()).toBe(before)
  })

  test('keeps the theme that was chosen', async () => {
    const service = await startService()
    onTestFinished(() => service.close())
    const { page } = await open(service.url, { theme: 'light' })
    const background = (): Promise<string> => page.evaluate(() => getComputedStyle(document.body).backgroundColor)
    const light = await background()

    await page.getByRole('button', { name: 'Dark' }).click()
    const dark = await background()
    await page.reload()

    expect(dark).not.toBe(light)
    expect(await background()).toBe(dark)
    await page.getByRole('button', { name: 'Auto' }).click()
    expect(await background()).toBe(light)
    await page.emulateMedia({ colorScheme: 'dark' })
    expect(await background()).toBe(dark)
  })

  test('shows what is chosen where the system chooses all colours', async () => {
    const service = await startService()
    onTestFinished(() => service.close())
    const { page } = await open(service.url)
    await page.emulateMedia({ forcedColors: 'active' })

    const backgrounds = await page
      .locator('#theme button')
      .evaluateAll((buttons) => buttons.map((button) => getComputedStyle(button).backgroundColor))

    expect(backgrounds[0]).not.toBe(backgrounds[1])
    expect(backgrounds[1]).toBe(backgrounds[2])
  })

  test('moves nothing but its data for those who want it so', async () => {
    const service = await startService()
    onTestFinished(() => service.close())
    const { page } = await open(service.url, { reducedMotion: 'reduce' })

    const moving = await page.evaluate(
      () =>
        [...document.querySelectorAll('*')].filter((node) => {
          const { transitionDuration, transitionProperty, animationName } = getComputedStyle(node)
          return (
            animationName !== 'none' || (transitionProperty !== 'none' && Number.parseFloat(transitionDuration) > 0)
          )
        }).length,
    )

    expect(moving).toBe(0)
  })
})

describe.skipIf(browser === undefined)('the page of a demo with faults', { timeout: testMs }, () => {
  let demo: DashboardDemo

  beforeAll(async () => {
    demo = await startDashboardDemo(['--faults', '--instances', '2', '--seconds', '600'])
  }, setUpMs)
  afterAll(() => demo?.stop(), setUpMs)

  /** Clears all faults, and waits until sums have been compared: after the last answer, 20 s at most, and 30 s of settling. */
  async function clear(page: Page): Promise<void> {
    const compared = (await happened(page)).match(/sums/g)?.length ?? 0
    await page.getByRole('button', { name: 'Clear all faults' }).click()
    await expect
      .poll(async () => (await happened(page)).match(/sums/g)?.length ?? 0, { timeout: 120_000, interval: 100 })
      .toBeGreaterThan(compared)
  }

  /** The latest comparison: each store has what was acknowledged, and at most what nobody can know beside it. */
  async function expectEqualSums(page: Page): Promise<void> {
    const text = (await page.locator('#happenings li', { hasText: 'sums' }).first().textContent()) ?? ''
    const [, ...numbers] =
      /sums are equal: acknowledged ([\d,]+)(?: and ([\d,]+) unsure)?, durable ([\d,]+), live ([\d,]+)/.exec(text) ?? []
    const [acknowledged, unsure, ...stored] = numbers.map((number = '0') => Number(number.replaceAll(',', '')))
    expect(stored, text).toHaveLength(2)
    for (const sum of stored) {
      expect(sum, text).toBeGreaterThanOrEqual(acknowledged ?? Number.NaN)
      expect(sum, text).toBeLessThanOrEqual((acknowledged ?? 0) + (unsure ?? 0))
    }
  }

  test.each([
    { theme: 'light', width: 1280 },
    { theme: 'dark', width: 1280 },
    { theme: 'light', width: 390 },
    { theme: 'dark', width: 390 },
  ] as const)('breaks no rule of WCAG, and has nothing beside it: $theme, $width px', async (look) => {
    const { page, complaints } = await open(demo.url, look)
    await expect.poll(() => value(page, 'requests', '2xx'), patience).toMatch(/^[1-9]/)

    expect(await broken(page)).toEqual([])
    expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(look.width)
    expect(complaints).toEqual([])
  })

  test('lets a keyboard reach every control, and shows where it is', async () => {
    const { page } = await open(demo.url)
    await expect.poll(() => page.locator('.instances button').count(), patience).toBe(2)
    const controls = await page.evaluate(() => {
      const all = [...document.querySelectorAll<HTMLElement>('button, a[href], [tabindex="0"]')]
      for (const [index, node] of all.entries()) node.dataset['control'] = String(index)
      return all.length
    })

    const reached = new Set<string>()
    const unseen: string[] = []
    for (let presses = 0; presses < controls + 10; presses++) {
      await page.keyboard.press('Tab')
      const at = await page.evaluate(() => {
        const node = document.activeElement as HTMLElement
        const { outlineStyle, outlineWidth } = getComputedStyle(node)
        const { width, height } = node.getBoundingClientRect()
        const seen = outlineStyle !== 'none' && Number.parseFloat(outlineWidth) >= 2 && width > 0 && height > 0
        return { control: node.dataset['control'], seen, text: node.outerHTML.slice(0, 80) }
      })
      if (at.control === undefined) continue
      reached.add(at.control)
      if (!at.seen) unseen.push(at.text)
    }

    expect(unseen).toEqual([])
    expect(reached.size).toBe(controls)
    expect(controls).toBeGreaterThan(40)
  })

  test('shows a dead Redis: its breaker opens, and closes once it is there again; the sums are equal', async () => {
    const { page } = await open(demo.url)
    await expect.poll(() => state(page, 'live store'), patience).toBe('● closed')

    await page.getByRole('button', { name: 'Redis: dead' }).press('Enter')

    await expect.poll(() => happened(page), patience).toContain('live store: open, was closed')
    await expect.poll(() => value(page, 'sums', 'live store'), patience).toMatch(/^[1-9]/)
    expect(await page.getByRole('button', { name: 'Redis: dead' }).getAttribute('aria-pressed')).toBe('true')
    expect(await state(page, 'durable store')).toBe('● closed')
    await clear(page)
    await expect.poll(() => state(page, 'live store'), patience).toBe('● closed')
    await expectEqualSums(page)
    expect(await page.locator('.tile', { hasText: 'Sums' }).textContent()).toContain('equal')
    expect(await page.locator('.tile', { hasText: 'Lost' }).locator('.figure').textContent()).toBe('0')
  })

  test('shows a dead Postgres: what is accepted waits, and none of it is lost', async () => {
    const { page } = await open(demo.url)

    await page.getByRole('button', { name: 'Postgres: dead' }).click()

    await expect.poll(() => happened(page), patience).toContain('durable store: open, was closed')
    await expect.poll(() => value(page, 'depth', 'durable writes'), patience).toMatch(/^[1-9]\d+ of 10k/)
    await expect.poll(() => value(page, 'requests', '2xx'), patience).toMatch(/^[1-9]/)
    await clear(page)
    await expect.poll(() => state(page, 'durable store'), patience).toBe('● closed')
    await expectEqualSums(page)
    expect(await page.locator('.tile', { hasText: 'Lost' }).locator('.figure').textContent()).toBe('0')
  })

  test('shows a slow Redis as slow, and no breaker opens for it', async () => {
    const { page } = await open(demo.url)
    const size = async (): Promise<number> =>
      Number((await value(page, 'answer-batches', 'live answers'))?.replace('–', '0'))

    await page.getByRole('button', { name: 'Redis: slow' }).click()

    await expect.poll(size, patience).toBeGreaterThan(1)
    expect(await state(page, 'live store')).toBe('● closed')
    await clear(page)
    expect(await happened(page)).toContain('sums are equal')
  })

  test('shows a killed instance: others take its calls, until another is in its place', async () => {
    const { page } = await open(demo.url)
    await expect.poll(() => page.locator('.instances li').count(), patience).toBe(2)
    const [first, second] = await page
      .locator('.instances li')
      .evaluateAll((rows) => rows.map((row) => (row as HTMLElement).dataset['id']))
    const calls = async (id: string | undefined): Promise<number> =>
      Number.parseFloat((await value(page, 'instances', `counter ${id}`)) ?? '')
    await expect.poll(() => calls(first), patience).toBeGreaterThan(0)

    await page.getByRole('button', { name: `Kill the counter service ${first}` }).click()

    await expect.poll(() => state(page, `counter ${first}`), patience).toBe('■ ejected')
    await expect.poll(() => calls(first), patience).toBeLessThan(1)
    await expect.poll(() => calls(second), patience).toBeGreaterThan(1)
    await page.getByRole('button', { name: `Start the counter service ${first}` }).click()
    await expect.poll(() => state(page, `counter ${first}`), patience).toBe('● healthy')
    await expect.poll(() => calls(first), patience).toBeGreaterThan(0)
    await clear(page)
    await expectEqualSums(page)
  })

  test('sends a burst, and stops and starts the load', async () => {
    const { page } = await open(demo.url)
    const rate = async (): Promise<number> => Number.parseFloat((await value(page, 'requests', '2xx')) ?? '')
    await expect.poll(rate, patience).toBeGreaterThan(0)

    await page.getByRole('button', { name: '5 times the load' }).click()
    await expect.poll(() => happened(page), patience).toContain('a burst: 5 times the load')

    await page.getByRole('button', { name: 'Stop the load' }).click()
    await expect.poll(rate, patience).toBe(0)
    await page.getByRole('button', { name: 'Start the load' }).click()
    await expect.poll(rate, patience).toBeGreaterThan(0)
  })
})
