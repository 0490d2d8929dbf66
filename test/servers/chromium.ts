import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { type Browser, chromium } from 'playwright-core'
import { debianBinary, type FoundBinary } from './debian.ts'

/** Without a window, and without what draws windows: a quarter of what the browser itself would bring along. */
const shell = 'chromium-headless-shell'

/**
 * The shell with its files, a font, and the libraries that a small machine lacks; those of the release after bookworm have other names.
 */
const packages = [
  shell,
  'chromium-common',
  'fonts-dejavu-core',
  'libasound2|libasound2t64',
  'libasyncns0',
  'libatk1.0-0|libatk1.0-0t64',
  'libatspi2.0-0|libatspi2.0-0t64',
  'libbrotli1',
  'libbsd0',
  'libdav1d6|libdav1d7',
  'libdbus-1-3',
  'libdouble-conversion3',
  'libdrm2',
  'libexpat1',
  'libffi8',
  'libflac12|libflac14',
  'libfontconfig1',
  'libfreetype6',
  'libgbm1',
  'libglib2.0-0|libglib2.0-0t64',
  'libgraphite2-3',
  'libharfbuzz-subset0',
  'libharfbuzz0b',
  'libjpeg62-turbo',
  'libminizip1|libminizip1t64',
  'libmp3lame0',
  'libmpg123-0|libmpg123-0t64',
  'libnspr4',
  'libnss3',
  'libogg0',
  'libopenh264-7|libopenh264-8',
  'libopus0',
  'libpcre2-8-0',
  'libpng16-16|libpng16-16t64',
  'libpulse0',
  'libsndfile1',
  'libvorbis0a',
  'libvorbisenc2',
  'libwayland-server0',
  'libx11-6',
  'libx11-xcb1',
  'libxau6',
  'libxcb1',
  'libxcb-randr0',
  'libxcomposite1',
  'libxdamage1',
  'libxdmcp6',
  'libxext6',
  'libxfixes3',
  'libxi6',
  'libxkbcommon0',
  'libxnvctrl0',
  'libxrandr2',
  'libxrender1',
  'libzstd1',
]

/** The browser of CHROMIUM_PATH, of the PATH, or of Debian's packages. */
export async function chromiumBinary(cache?: string): Promise<FoundBinary | undefined> {
  const { CHROMIUM_PATH: given } = process.env
  if (given) return { path: given, env: {} }
  const onPath = await debianBinary({ packages: [], binary: 'chromium' })
  if (onPath !== undefined) return onPath
  const unpacked = await debianBinary({ packages, binary: shell, ...(cache !== undefined && { cache }) })
  return unpacked && withFonts(unpacked)
}

/** Says that there is none. */
export function noChromium(): undefined {
  const missing = 'no Chromium for these tests: set CHROMIUM_PATH, install chromium, or run where apt-get can fetch it'
  if (process.env['CI']) throw new Error(missing)
  console.warn(missing)
  return undefined
}

/** A browser, to be closed by whoever asked for it; undefined, after a line that says why, where there is none to be had. */
export async function startChromium(): Promise<Browser | undefined> {
  const binary = await chromiumBinary()
  if (binary === undefined) return noChromium()
  return launchChromium(binary)
}

export function launchChromium({ path, env }: FoundBinary): Promise<Browser> {
  return chromium.launch({
    executablePath: path,
    env: { ...(process.env as Record<string, string>), ...env },
    // The tests' own pages alone; containers have neither a namespace to lock it in nor much shared memory.
    args: ['--no-sandbox', '--disable-dev-shm-usage'],
    timeout: 60_000,
  })
}

/** Fonts that were unpacked are where no machine looks for any. */
function withFonts({ path, env }: FoundBinary): FoundBinary {
  const home = path.slice(0, path.indexOf('/usr/lib/chromium/'))
  const folder = join(home, 'usr/share/fonts')
  const file = join(home, 'fonts.conf')
  if (!existsSync(folder)) return { path, env }
  if (!existsSync(file)) {
    mkdirSync(dirname(file), { recursive: true })
    const folders = [folder, '/usr/share/fonts'].map((name) => `<dir>${name}</dir>`).join('')
    writeFileSync(
      file,
      `<?xml version="1.0"?><fontconfig>${folders}<cachedir>${home}/fonts.cache</cachedir></fontconfig>\n`,
    )
  }
  return { path, env: { ...env, FONTCONFIG_FILE: file } }
}
