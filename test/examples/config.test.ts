import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Ajv } from 'ajv'
import fc from 'fast-check'
import { describe, expect, onTestFinished, test } from 'vitest'
import { type ConfigError, type ConfigInput, readConfig } from '../../examples/counter-billing/config/config.ts'
import { configSchema } from '../../examples/counter-billing/config/config-schema.ts'
import { environmentOf } from '../../examples/counter-billing/config/environment.ts'
import { parseJsonc } from '../../examples/counter-billing/config/jsonc.ts'
import { presetNames, presets } from '../../examples/counter-billing/config/presets.ts'
import { configText } from '../../examples/counter-billing/config/print-config.ts'
import { settingOf, settingPaths, variableOf } from '../../examples/counter-billing/config/settings.ts'

const env = {}

/** A configuration file that goes with the test. */
function fileOf(content: string, name = 'service.jsonc'): string {
  const folder = mkdtempSync(join(tmpdir(), 'counter-billing-config-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const path = join(folder, name)
  writeFileSync(path, content)
  return path
}

function problemsOf(input: ConfigInput): readonly string[] {
  try {
    readConfig({ env, ...input })
    return []
  } catch (error) {
    return (error as ConfigError).problems
  }
}

describe('what is configured', () => {
  test('is what the table says where nobody says anything', () => {
    const { values, sources } = readConfig({ env })

    for (const path of settingPaths) expect([path, values[path]]).toEqual([path, settingOf(path).value])
    expect(new Set(Object.values(sources))).toEqual(new Set(['default']))
  })

  test('flags win over the environment, that over a file, a file over a preset, a preset over the program', () => {
    const file = fileOf('{ "async": { "maxWaitMs": 1, "maxBatchSize": 2 }, "pools": { "grpc": { "channels": 3 } } }')
    const base = { 'async.maxWaitMs': 9, 'async.answers.maxWaitMs': 9, 'api.tokenLifeSeconds': 9 }
    const variables = { COUNTER_BILLING_ASYNC_MAX_BATCH_SIZE: '20', COUNTER_BILLING_POOLS_GRPC_CHANNELS: '5' }

    const { values, sources, preset } = readConfig({
      flags: { config: file, preset: 'low-latency', channels: '7' },
      env: variables,
      base,
    })

    expect(preset).toBe('low-latency')
    expect([values['pools.grpc.channels'], sources['pools.grpc.channels']]).toEqual([7, '--channels'])
    expect([values['async.maxBatchSize'], sources['async.maxBatchSize']]).toEqual([
      20,
      'COUNTER_BILLING_ASYNC_MAX_BATCH_SIZE',
    ])
    expect([values['async.maxWaitMs'], sources['async.maxWaitMs']]).toEqual([1, file])
    expect(values['async.answers.maxWaitMs']).toBe(presets['low-latency']['async.answers.maxWaitMs'])
    expect(sources['async.answers.maxWaitMs']).toBe('preset low-latency')
    expect([values['api.tokenLifeSeconds'], sources['api.tokenLifeSeconds']]).toEqual([9, 'program'])
    expect([values['async.capacity'], sources['async.capacity']]).toEqual([10_000, 'default'])
  })

  test('a variable by its own name wins over the one that others know', () => {
    const { values } = readConfig({ env: { SLOW_QUERY_MS: '5', COUNTER_BILLING_QUERY_SLOW_QUERY_MS: '6' } })

    expect(values['query.slowQueryMs']).toBe(6)
  })

  test.each([
    ['REDIS_URL', 'services.redisUrl', 'redis://h:1'],
    ['DATABASE_URL', 'services.databaseUrl', 'postgres://h:1/d'],
    ['CONSUL_HTTP_ADDR', 'consul.address', '127.0.0.1:8500'],
    ['LOG_FILE', 'log.file', '/tmp/a.log'],
    ['LOG_LEVEL', 'log.level', 'warn'],
    ['SLOW_QUERY_MS', 'query.slowQueryMs', 7],
    ['CURSOR_SECRET', 'query.cursorSecrets', ['a secret of many', 'another of many!']],
    ['AUTH_URL', 'services.authUrl', 'http://h:1'],
    ['AUTH_ISSUER', 'services.authIssuer', 'me'],
    ['AUTH_CLIENT_SECRET', 'services.authClientSecret', 'hush'],
  ] as const)('%s goes on to work', (variable, path, value) => {
    const { values, sources } = readConfig({ env: { [variable]: String(value) } })

    expect([values[path], sources[path]]).toEqual([value, variable])
  })

  test('a variable or a flag with nothing in it says nothing', () => {
    const { sources } = readConfig({ flags: { port: '' }, env: { REDIS_URL: '', COUNTER_BILLING_API_PORT: '' } })

    expect([sources['services.redisUrl'], sources['api.port']]).toEqual(['default', 'default'])
  })

  test('another process that is told all of it has all of it', () => {
    const { values } = readConfig({ env, flags: { preset: 'high-throughput', port: '81', config: undefined } })
    const told = environmentOf({ ...values, 'query.cursorSecrets': ['a secret of many', 'another of many!'] })

    expect(readConfig({ env: { REDIS_URL: 'redis://elsewhere:1', ...told } }).values).toEqual({
      ...values,
      'query.cursorSecrets': ['a secret of many', 'another of many!'],
    })
  })

  test.each(presetNames)('the preset %s differs from the defaults in all that it says, and holds together', (name) => {
    const { values, sources } = readConfig({ env, flags: { preset: name } })

    for (const [path, value] of Object.entries(presets[name])) {
      expect([path, values[path as keyof typeof values]]).toEqual([path, value])
      expect(sources[path as keyof typeof sources]).toBe(`preset ${name}`)
      expect([path, settingOf(path as keyof typeof values).value]).not.toEqual([path, value])
      expect(settingOf(path as keyof typeof values).accept(value)).toEqual(value)
    }
  })
})

describe('what is wrong', () => {
  test('is told all at once, each with its path, the rule, the value and who said it', () => {
    const file = fileOf(
      '{ "async": { "maxWaitMs": "soon", "maxBatchSise": 3 }, "pools": 5, "cash": {} , "log": { "level": "loud" } }',
    )

    const problems = problemsOf({
      flags: { config: file, port: '99999' },
      env: { COUNTER_BILLING_API_GRPC_PORT: 'x', COUNTER_BILLING_API_PROT: '1' },
    })

    expect(problems).toEqual([
      `async.maxWaitMs must be a whole number from 0 to 60000, got "soon" (${file})`,
      'api.port must be a whole number from 0 to 65535, got "99999" (--port)',
      'api.grpcPort must be a whole number from 0 to 65535, got "x" (COUNTER_BILLING_API_GRPC_PORT)',
      `log.level must be one of trace, debug, info, warn, error, silent, got "loud" (${file})`,
      `async.maxBatchSise is no setting; did you mean async.maxBatchSize? (${file})`,
      `pools must be an object, got 5 (${file})`,
      `cash is no setting; did you mean cache? (${file})`,
      'COUNTER_BILLING_API_PROT is no setting; did you mean COUNTER_BILLING_API_PORT? (environment)',
    ])
  })

  test.each(settingPaths)('%s takes its default from a text, and refuses what can’t be meant', (path) => {
    const { value, parse, accept, schema } = settingOf(path)
    const text = environmentOf({ [path]: value })[variableOf(path)] ?? ''

    if (text !== '') expect(accept(parse(text))).toEqual(value)
    // What anything is good for is a path or a name, which any text may be; and no file may have a number there.
    for (const wrong of [Number.NaN, { a: 1 }, null]) {
      expect(accept(wrong)).toBeUndefined()
      const content = path.split('.').reduceRight<unknown>((inner, name) => ({ [name]: inner }), wrong)
      const told = problemsOf({ flags: { config: fileOf(JSON.stringify(content)) } })
      expect(told).toEqual([expect.stringContaining(`${path} must be `)])
    }
    const untold = problemsOf({ env: { [variableOf(path)]: 'a b\0' } })
    for (const problem of untold) expect(problem).toContain(`${path} must be `)
    if (schema['type'] !== 'string') expect(accept(parse('a b\0'))).toBeUndefined()
  })

  test.each([
    ['services.redisUrl', { REDIS_URL: 'http://user:hush@h:1' }],
    ['services.databaseUrl', { DATABASE_URL: 'user:hush@h' }],
    // A password that nobody has escaped.
    ['services.redisUrl', { REDIS_URL: 'redis://user:hu/hush@h:1' }],
    ['services.authUrl', { AUTH_URL: 'http://hush@auth' }],
    ['consul.address', { CONSUL_HTTP_ADDR: 'http://user:hush@consul:8500' }],
    ['query.cursorSecrets', { CURSOR_SECRET: 'hush' }],
  ])('%s is refused without being repeated', (path, variables) => {
    const [problem, ...others] = problemsOf({ env: variables })

    expect(problem).toMatch(new RegExp(`^${path} must be .*\\(${Object.keys(variables)[0]}\\)$`))
    expect(problem).not.toContain('hush')
    expect(others).toEqual([])
  })

  test('a secret that would be another one in the environment of another process', () => {
    const content = { query: { cursorSecrets: ['one of many letters, with a comma'] } }

    expect(problemsOf({ flags: { config: fileOf(JSON.stringify(content)) } })[0]).toMatch(
      /^query.cursorSecrets must be a secret of at least 16 characters without a comma, or several \(/,
    )
  })

  test.each([
    { services: { databaseUrl: { url: 'postgres://user:hush@h/d' } } },
    { services: 'postgres://user:hush@h/d' },
  ])('what may have a secret is not repeated from a file either: %j', (content) => {
    const [problem, ...others] = problemsOf({ flags: { config: fileOf(JSON.stringify(content)) } })

    expect(problem).toMatch(/^services\S* must be /)
    expect(problem).not.toContain('hush')
    expect(others).toEqual([])
  })

  test.each([
    [{ async: { capacity: 10 } }, /async.maxBatchSize must be at most async.capacity \(10, /],
    [
      { pools: { postgres: { minConnections: 9 } } },
      /minConnections must be at most pools.postgres.maxConnections \(8, default\), got 9/,
    ],
    [{ query: { maxPageSize: 10 } }, /query.defaultPageSize must be at most query.maxPageSize/],
    [
      { services: { databaseUrl: 'postgres://h/d', dataDir: 'd' } },
      /services.dataDir \(.*\) is for PGlite, but services.databaseUrl/,
    ],
  ])('values that contradict each other are: %j', (content, reason) => {
    expect(problemsOf({ flags: { config: fileOf(JSON.stringify(content)) } })[0]).toMatch(reason)
  })

  test('a file that isn’t there, isn’t JSON, or isn’t an object', () => {
    expect(problemsOf({ flags: { config: '/nowhere/at/all.json' } })[0]).toMatch(/can't be read: ENOENT/)
    expect(problemsOf({ flags: { config: fileOf('{ "async": {\n  "maxWaitMs" 5 }\n}') } })[0]).toMatch(
      /can't be read: line 2, column 15: Expected ':'/,
    )
    expect(problemsOf({ flags: { config: fileOf('[]') } })[0]).toMatch(/must be a JSON object of sections, got \[\]/)
    expect(problemsOf({ env: { COUNTER_BILLING_PRESET: 'fast' } })).toEqual([
      'preset must be one of default, high-throughput, low-latency, got "fast" (COUNTER_BILLING_PRESET)',
    ])
  })
})

describe('a file with comments', () => {
  test('is read as an editor reads it', () => {
    const text = `{ // a comment\n "a": "no // comment, no /* comment */ either", /* "b": 1, */ "c": [1, 2,], }`

    expect(parseJsonc(text)).toEqual({ a: 'no // comment, no /* comment */ either', c: [1, 2] })
  })

  test.each(['[,]', '{ /* nothing */ , }', '[1,,]', '{ "a": 1 // }', '{ "a": 1 } /*', '{ "a": "b\n" }'])(
    'is refused where an editor would: %j',
    (text) => expect(() => parseJsonc(text)).toThrow(SyntaxError),
  )

  test('is what JSON is, whatever comments stand between', () => {
    const between = fc.constantFrom('', ' ', '\n', '// x, }\n', '/* "a": [ */', ' /**/ ')
    fc.assert(
      fc.property(fc.jsonValue(), fc.array(between, { minLength: 1 }), (value, comments) => {
        let n = 0
        const pretty = JSON.stringify(value, null, 1).replaceAll('\n', () => `\n${comments[n++ % comments.length]}`)
        expect(parseJsonc(pretty)).toEqual(JSON.parse(JSON.stringify(value)))
      }),
    )
  })

  test('may name its schema and a preset, which editors and the service know', () => {
    const file = fileOf('{ "$schema": "./config.schema.json", "preset": "low-latency" }')

    expect(readConfig({ env, flags: { config: file } }).values['async.maxWaitMs']).toBe(10)
  })
})

describe('the schema', () => {
  const validate = new Ajv({ strict: true, allErrors: true }).compile(configSchema())

  /** A file in which each setting has a value. */
  const nested = (values: Readonly<Record<string, unknown>>): Record<string, unknown> => {
    const content: Record<string, unknown> = {}
    for (const [path, value] of Object.entries(values)) {
      const names = path.split('.')
      let at = content
      for (const name of names.slice(0, -1)) {
        at[name] ??= {}
        at = at[name] as Record<string, unknown>
      }
      at[names.at(-1) as string] = value
    }
    return content
  }

  test('takes what the service takes', () => {
    const values = Object.fromEntries(settingPaths.map((path) => [path, settingOf(path).value]))

    expect([validate(nested(values)), validate.errors]).toEqual([true, null])
    for (const name of presetNames) expect(validate({ preset: name, ...nested(presets[name]) })).toBe(true)
  })

  test.each(settingPaths)('knows %s, says what it does, and refuses what the service refuses', (path) => {
    expect(validate(nested({ [path]: { a: 1 } }))).toBe(false)
    expect(validate(nested({ [`${path}Misspelt`]: 1 }))).toBe(false)
    expect(JSON.stringify(configSchema())).toContain(JSON.stringify(settingOf(path).doc).slice(1, -1))
  })
})

describe('--print-config', () => {
  test('has each value with who says so, and no secret', () => {
    const text = configText(
      readConfig({
        flags: { port: '81' },
        env: {
          REDIS_URL: 'redis://user:hush@h:1',
          CURSOR_SECRET: 'hush-hush-hush-hush',
          AUTH_CLIENT_SECRET: 'hush',
          COUNTER_BILLING_API_API_KEYS_KEYS: JSON.stringify([
            { id: 'a', sha256: 'b'.repeat(64), userId: 'hush', scopes: [] },
          ]),
        },
      }),
    )

    expect(text).toMatch(/^api\.port +81 +--port$/m)
    expect(text).toMatch(/^services\.redisUrl +redis:\/\/\*\*\*@h:1 +REDIS_URL$/m)
    expect(text).toMatch(/^query\.cursorSecrets +\*\*\* +CURSOR_SECRET$/m)
    expect(text).toMatch(/^api\.apiKeys\.keys +\*\*\* \(1\) /m)
    expect(text).not.toContain('hush')
    expect(text.split('\n')).toHaveLength(settingPaths.length + 1)
  })

  test.each([
    ['postgres://us/er:hush@h/d', 'postgres://***@h/d'],
    ['postgres://user:hu@hush@h/d', 'postgres://***@h/d'],
    ['postgres://h/d?user=u&password=hush&ssl=true', 'postgres://h/d?user=u&password=***&ssl=true'],
  ])('shows nothing of the password of %s', (url, shown) => {
    expect(configText(readConfig({ env: { DATABASE_URL: url } }))).toContain(` ${shown} `)
  })
})
