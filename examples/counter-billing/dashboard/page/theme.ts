import { found } from './element.ts'

const key = 'dashboard-theme'
const themes = ['auto', 'light', 'dark'] as const
type Theme = (typeof themes)[number]

const prefersDark = matchMedia('(prefers-color-scheme: dark)')
/** Where the colours of the dark theme are good. */
const darkMedia: Readonly<Record<Theme, string>> = { auto: prefersDark.media, light: 'not all', dark: 'all' }

/** What is drawn, and not styled, takes its colours from here. */
export class Colours {
  readonly #listeners: (() => void)[] = []

  constructor() {
    const stored = storage(() => localStorage.getItem(key))
    this.#choose(themes.find((theme) => theme === stored) ?? 'auto')
    prefersDark.addEventListener('change', () => this.#changed())
    found('dark').addEventListener('load', () => this.#changed())
    for (const button of buttons()) {
      button.addEventListener('click', () => this.#choose(button.dataset['theme'] as Theme))
    }
  }

  onChange(listener: () => void): void {
    this.#listeners.push(listener)
  }

  /** After Okabe and Ito, whose colours most people tell apart; each line has a dash of its own, too. */
  series(index: number): string {
    return this.of(`series-${index % 6}`)
  }

  of(variable: 'muted' | 'line' | 'good' | 'half' | 'bad' | 'faint' | 'shade' | `series-${number}`): string {
    return getComputedStyle(document.documentElement).getPropertyValue(`--${variable}`).trim()
  }

  #choose(theme: Theme): void {
    found('dark').setAttribute('media', darkMedia[theme])
    storage(() => localStorage.setItem(key, theme))
    for (const button of buttons()) button.setAttribute('aria-pressed', String(button.dataset['theme'] === theme))
    this.#changed()
  }

  #changed(): void {
    for (const listener of this.#listeners) listener()
  }
}

function buttons(): HTMLButtonElement[] {
  return [...found('theme').querySelectorAll('button')]
}

/** A browser may keep nothing. */
function storage<T>(use: () => T): T | undefined {
  try {
    return use()
  } catch {
    return undefined
  }
}
