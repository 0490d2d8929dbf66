// Takes the pictures of docs/dashboard: `npm run dashboard:shots`. It starts the demo, breaks it as one would by hand, and looks at it.
import { mkdirSync, statSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { Page } from 'playwright-core'
import { startChromium } from '../servers/chromium.ts'
import { startDashboardDemo } from './dashboard-demo.ts'

const folder = fileURLToPath(new URL('../../docs/dashboard/', import.meta.url))
const maxBytes = 300_000
/** Enough of a past for charts that have something in them. */
const quietMs = 60_000
const warmUpMs = 30_000

mkdirSync(folder, { recursive: true })
const browser = await startChromium()
if (browser === undefined) process.exit(1)
const demo = await startDashboardDemo(['--faults', '--instances', '3', '--seconds', '600', '--token-life', '60'])
try {
  // What starts together with it is over by then.
  await delay(warmUpMs)
  const page = await browser.newPage({ viewport: { width: 1280, height: 1080 }, colorScheme: 'light' })
  await page.goto(`${demo.url}/dashboard`)
  await page.waitForTimeout(quietMs)
  await shot(page, 'idle')

  await click(page, '5 times the load')
  await page.waitForTimeout(12_000)
  await shot(page, 'burst')
  await page.waitForTimeout(10_000)

  await click(page, 'Redis: dead')
  await page.waitForTimeout(14_000)
  await shot(page, 'redis-dead')
  await page.emulateMedia({ colorScheme: 'dark' })
  await shot(page, 'redis-dead-dark')
  await cleared(page)
  await page.waitForTimeout(8_000)
  await shot(page, 'redis-back-dark')
  await page.emulateMedia({ colorScheme: 'light' })

  await page
    .getByRole('button', { name: /^Kill the counter service/ })
    .first()
    .click()
  await page.waitForTimeout(15_000)
  await shot(page, 'instance-killed')
  await cleared(page)
  await page.waitForTimeout(15_000)

  await page.setViewportSize({ width: 390, height: 844 })
  for (const colorScheme of ['light', 'dark'] as const) {
    await page.emulateMedia({ colorScheme })
    await page.evaluate(() => document.querySelector('#figures')?.scrollIntoView())
    await page.waitForTimeout(2_000)
    await shot(page, `phone-${colorScheme}`)
  }
} finally {
  await browser.close()
  await demo.stop()
}

async function click(page: Page, name: string): Promise<void> {
  await page.getByRole('button', { name }).click()
}

/** Faults are gone, and sums are compared. */
async function cleared(page: Page): Promise<void> {
  const sums = page.locator('#happenings li', { hasText: 'sums' })
  const before = await sums.count()
  await click(page, 'Clear all faults')
  await page.waitForFunction(
    (count) =>
      [...document.querySelectorAll('#happenings li')].filter((li) => li.textContent?.includes('sums')).length > count,
    before,
    { timeout: 90_000 },
  )
}

async function shot(page: Page, name: string): Promise<void> {
  const path = `${folder}${name}.png`
  await page.mouse.move(0, 0)
  await page.screenshot({ path })
  const { size } = statSync(path)
  if (size > maxBytes) throw new Error(`${path} has ${size} bytes, more than ${maxBytes}`)
  console.log(`${name}.png  ${Math.round(size / 1_000)} kB`)
}
