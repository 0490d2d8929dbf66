// A log file that is rotated in the middle of a burst, moved away by logrotate, and written to the last line when the process ends.
import assert from 'node:assert/strict'
import { mkdtemp, readFile, rename, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { FileSink } from 'spillway/file'

const directory = await mkdtemp(join(tmpdir(), 'file-sink-'))
const path = join(directory, 'app.log')
const sink = new FileSink({ path, rotate: { maxBytes: 3000, maxFiles: 5 } })
sink.on('rotated', ({ bytes }) => console.log('rotated after', bytes, 'bytes'))

const line = (number: number): string => `${JSON.stringify({ number, text: 'a line of a log' })}\n`
const burst = Array.from({ length: 200 }, (_, number) => sink.write(line(number)))
await Promise.all(burst)

// What logrotate does, and what a service does at SIGHUP.
await rename(path, `${path}.moved`)
await sink.reopen()

// At a crash: what is in flight and the last words, within this call and each of them once.
const inFlight = sink.write(line(200))
assert.equal(sink.writeSync(line(201)), undefined)
const left = await readFile(path, 'utf8')
assert.equal(left, line(200) + line(201))
await inFlight
await sink.close()

const files = ['app.log.2', 'app.log.1', 'app.log.moved', 'app.log']
const texts = await Promise.all(files.map((name) => readFile(join(directory, name), 'utf8')))
console.log(files.map((name, i) => `${name}: ${texts[i]?.length} bytes`).join(', '))
assert.equal(texts.join(''), Array.from({ length: 202 }, (_, number) => line(number)).join(''))
await rm(directory, { recursive: true })
