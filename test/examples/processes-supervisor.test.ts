import { spawnSync } from 'node:child_process'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { environmentOf } from '../../examples/counter-billing/config/environment.ts'
import { type FleetMember, startMember } from '../../examples/counter-billing/fleet.ts'
import { Supervisor, type SupervisorOptions } from '../../examples/counter-billing/supervisor.ts'

const delays = { delayMs: 1, maxDelayMs: 4 }

/** Members that live until a test says otherwise, in place of processes. */
function makeshift(starts: (attempt: number) => Error | undefined = () => undefined) {
  const flags: (readonly string[])[] = []
  const members: { end: (how: string) => void; closed: boolean }[] = []
  const start = async (own: readonly string[]): Promise<FleetMember> => {
    flags.push(own)
    const failure = starts(flags.length)
    if (failure !== undefined) throw failure
    let end: (how: string) => void = () => undefined
    const ended = new Promise<string>((resolve) => {
      end = resolve
    })
    const member = { end, closed: false }
    members.push(member)
    const close = async (): Promise<void> => {
      member.closed = true
      end('0')
    }
    return { address: '127.0.0.1:4711', pid: 100 + members.length, ended, kill: async () => end('SIGKILL'), close }
  }
  return { start, flags, members }
}

function supervise(options: Partial<SupervisorOptions> = {}) {
  const said: string[] = []
  const supervisor = new Supervisor({
    ...delays,
    log: (level, message) => said.push(`${level} ${message}`),
    tell: (line) => said.push(line),
    ...options,
  })
  return { supervisor, said }
}

const part = { name: 'gateway 1', flags: ['--role', 'gateway'], portFlag: 'port', env: {} }

describe('a supervisor', () => {
  test('starts a part that dies again, on the port that it had', async () => {
    const { start, flags } = makeshift()
    const { supervisor, said } = supervise({ start })
    const { members, closable } = await supervisor.start('gateways', [part])
    const [member] = members

    await member?.kill()
    await expect.poll(() => member?.restarts).toBe(1)

    expect(flags).toEqual([
      ['--role', 'gateway', '--port', '0'],
      ['--role', 'gateway', '--port', '4711'],
    ])
    expect(member?.pid).toBe(102)
    expect(said).toEqual([
      'warn gateway 1 ended with SIGKILL; it is started again in 1 ms',
      'info gateway 1 is back at 127.0.0.1:4711, process 102',
    ])
    await closable.close()
  })

  test('tries again where that fails, and gives up what dies too often', async () => {
    const { start, members: made } = makeshift((attempt) =>
      attempt === 2 ? new Error('the port is taken') : undefined,
    )
    const { supervisor, said } = supervise({ start, maxRestarts: 3 })
    const { members } = await supervisor.start('gateways', [part])

    for (let n = 0; n < 3; n++) {
      await expect.poll(() => made.length).toBe(n + 1)
      await members[0]?.kill()
    }
    await expect.poll(() => said.at(-1)).toMatch(/^error gateway 1 ended with SIGKILL, and is given up/)

    expect(said).toContain("warn gateway 1 can't be started: the port is taken; it is started again in 2 ms")
    expect(made).toHaveLength(3)
  })

  test('starts a part again that dies as soon as it is back', async () => {
    const { start, members: made } = makeshift()
    const startDying: typeof start = async (flags) => {
      const member = await start(flags)
      if (made.length === 2) made[1]?.end('1')
      return member
    }
    const { supervisor, said } = supervise({ start: startDying })
    const { members, closable } = await supervisor.start('gateways', [part])

    await members[0]?.kill()

    await expect.poll(() => members[0]?.restarts).toBe(2)
    expect(said).toContain('warn gateway 1 ended with 1; it is started again in 2 ms')
    expect(members[0]?.pid).toBe(103)
    await closable.close()
  })

  test('starts nothing again that it is told to close, not even what is about to be', async () => {
    const { start, members: made } = makeshift()
    const { supervisor } = supervise({ start, delayMs: 60_000, maxDelayMs: 60_000 })
    const { members, closable } = await supervisor.start('gateways', [part, { ...part, name: 'gateway 2' }])

    await members[0]?.kill()
    await closable.close()

    expect(made.map(({ closed }) => closed)).toEqual([true, true])
    expect(made).toHaveLength(2)
  })

  test('doesn’t wait for what is starting when it is told to close', async () => {
    const { start, flags } = makeshift()
    const startSlowly: SupervisorOptions['start'] = async (own, _env, _tell, signal) => {
      const member = await start(own)
      if (flags.length === 1) return member
      return new Promise((_resolve, reject) => signal?.addEventListener('abort', () => reject(new Error('given up'))))
    }
    const { supervisor, said } = supervise({ start: startSlowly })
    const { members, closable } = await supervisor.start('gateways', [part])

    await members[0]?.kill()
    await expect.poll(() => flags.length).toBe(2)
    await closable.close()

    expect(said).toHaveLength(1)
  })

  test('starts all of them, or none', async () => {
    const { start, members: made } = makeshift((attempt) => (attempt === 2 ? new Error('no') : undefined))
    const { supervisor } = supervise({ start })

    await expect(supervisor.start('gateways', [part, part, part])).rejects.toThrow('no')
    expect(made.map(({ closed }) => closed)).toEqual([true, true])
  })

  const env = {
    ...environmentOf({ 'log.level': 'error' }),
    AUTH_CLIENT_SECRETS: '{"gateway":"sixteen letters!!"}',
    NODE_OPTIONS: '--import ./examples/tsx.mjs',
  }

  test('gives up a real part that is starting, and leaves no process behind', { timeout: 60_000 }, async () => {
    const giveUp = new AbortController()
    const unique = String(Math.random()).slice(2)
    const isThere = (): boolean => spawnSync('ps', ['-A', '-o', 'args='], { encoding: 'utf8' }).stdout.includes(unique)
    const starting = startMember(['--role', 'auth', '--secrets', unique], env, () => undefined, giveUp.signal)

    expect(isThere()).toBe(true)
    giveUp.abort()

    await expect(starting).rejects.toThrow('it was given up')
    expect(isThere()).toBe(false)
  })

  test('has a real part back after kill -9, which answers where the dead one did', { timeout: 180_000 }, async () => {
    const { supervisor, said } = supervise({ delayMs: 50 })
    const { members, closable } = await supervisor.start('auth', [
      { name: 'auth', flags: ['--role', 'auth'], portFlag: 'auth-port', env },
    ])
    onTestFinished(async () => void (await closable.close()))
    const [auth] = members
    const pid = auth?.pid ?? 0

    process.kill(pid, 'SIGKILL')
    await vi.waitFor(() => expect(auth?.restarts).toBe(1), { timeout: 90_000, interval: 100 })

    expect(auth?.pid).not.toBe(pid)
    expect((await fetch(`${auth?.address}/healthz`)).status).toBe(200)
    await closable.close()
    await expect(fetch(`${auth?.address}/healthz`)).rejects.toThrow()
    expect(said.filter((line) => line.startsWith('error'))).toEqual([])
  })
})
