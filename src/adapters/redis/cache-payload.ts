import { promisify } from 'node:util'
import { brotliCompress, brotliDecompress, constants, gunzip, gzip } from 'node:zlib'
import { OptionError } from '../../core/errors.js'
import { describeValue, failOption } from '../../core/options.js'
import { isWellFormed } from '../../internal/storable.js'
import { flags } from './cache-record.js'

/** Turns values into what Redis keeps, and back. */
export interface CacheSerializer {
  /**
   * What it calls its format, if it has a name for it. A value that was written under another name is unreadable, rather than read as
   * something that it isn't: change it when the format changes.
   */
  readonly format?: string | undefined
  /**
   * Turns a value into text or bytes.
   *
   * @throws OptionError where it can't carry the value, or would change it; any other error is wrapped in one.
   */
  encode(value: unknown): string | Uint8Array
  /**
   * Turns them back: what `encode` returned, a text where that was one, bytes where it was bytes. An error, and `undefined`, mean that the
   * value is unreadable.
   */
  decode(payload: string | Uint8Array): unknown
}

/** How large values are compressed. */
export interface CacheCompression {
  /** By what: `gzip`, or `brotli`, which takes longer and less room. What was written by the other one, or not at all, is read too. The default is `gzip`. */
  algorithm?: 'gzip' | 'brotli' | undefined
  /** How hard it tries: 1 to 9 for `gzip`, 0 to 11 for `brotli`. The default is 6 for `gzip` and 4 for `brotli`. */
  level?: number | undefined
  /** From how many bytes on a value is compressed; one that doesn't get smaller is kept as it is. The default is 1024. */
  minBytes?: number | undefined
}

/** How a payload is written. */
export interface PackedPayload {
  readonly payload: string | Uint8Array
  readonly flags: number
  /** How many bytes compression has saved. */
  readonly savedBytes: number
}

/** What a compressed payload would be is larger than it may be. */
export class PayloadTooLargeError extends Error {
  override get name(): string {
    return 'PayloadTooLargeError'
  }
}

type Deflate = (payload: Uint8Array) => Promise<Buffer>

const gzipAsync = promisify(gzip)
const gunzipAsync = promisify(gunzip)
const brotliAsync = promisify(brotliCompress)
const unbrotliAsync = promisify(brotliDecompress)

/** Serializes and compresses, on the way in and on the way out. */
export class PayloadCodec {
  readonly #serializer: CacheSerializer
  readonly #minBytes: number
  readonly #deflate: Deflate | undefined
  readonly #deflateFlag: number
  readonly #maxBytes: number

  constructor(serializer: CacheSerializer, compression: Required<CacheCompression> | undefined, maxBytes: number) {
    this.#serializer = serializer
    this.#minBytes = compression?.minBytes ?? 0
    this.#deflate = compression && deflateBy(compression)
    this.#deflateFlag = compression?.algorithm === 'brotli' ? flags.brotli : flags.gzip
    this.#maxBytes = maxBytes
  }

  /** Serializes. */
  encode(value: unknown): string | Uint8Array {
    let payload: unknown
    try {
      payload = this.#serializer.encode(value)
    } catch (error) {
      if (error instanceof OptionError) throw error
      const refused = new OptionError(
        'value',
        `value must be what the serializer takes, got ${describeValue(value)}: ${error instanceof Error ? error.message : String(error)}`,
      )
      refused.cause = error
      throw refused
    }
    const checked = checkPayload('what the serializer returns', payload)
    const size = sizeOf(checked)
    if (size <= this.#maxBytes) return checked
    throw new OptionError('value', `value must have at most ${this.#maxBytes} bytes as it is serialized, got ${size}`)
  }

  /** Compresses, where that is asked for and helps. It answers at once where it does nothing. */
  pack(payload: string | Uint8Array): PackedPayload | Promise<PackedPayload> {
    const bits = typeof payload === 'string' ? 0 : flags.bytes
    const deflate = this.#deflate
    if (deflate !== undefined) {
      const size = sizeOf(payload)
      if (size >= this.#minBytes) return this.#compress(deflate, payload, size, bits)
    }
    return { payload, flags: bits, savedBytes: 0 }
  }

  async #compress(deflate: Deflate, payload: string | Uint8Array, size: number, bits: number): Promise<PackedPayload> {
    const bytes = typeof payload === 'string' ? Buffer.from(payload) : payload
    // Whatever stops it, no memory for instance: the value is kept as it is.
    const small = await deflate(bytes).catch(() => undefined)
    if (small === undefined || small.length >= size) return { payload, flags: bits, savedBytes: 0 }
    return { payload: small, flags: bits | this.#deflateFlag, savedBytes: size - small.length }
  }

  /** Whether flags say that a payload is compressed. */
  compresses(bits: number): boolean {
    return (bits & (flags.gzip | flags.brotli)) !== 0
  }

  /** Decompresses, and decodes. */
  async inflate(payload: Buffer, bits: number): Promise<unknown> {
    const inflate = (bits & flags.gzip) !== 0 ? gunzipAsync : unbrotliAsync
    let bytes: Buffer
    try {
      bytes = await inflate(payload, { maxOutputLength: this.#maxBytes })
    } catch (error) {
      if ((error as { code?: unknown }).code !== 'ERR_BUFFER_TOO_LARGE') throw error
      throw new PayloadTooLargeError(`it has more than ${this.#maxBytes} bytes`, { cause: error })
    }
    return this.decode(bytes, bits)
  }

  /** Decodes what isn't compressed. Throws where the serializer does. */
  decode(payload: Buffer, bits: number): unknown {
    if (payload.length > this.#maxBytes) {
      throw new PayloadTooLargeError(`it has ${payload.length} bytes, more than ${this.#maxBytes}`)
    }
    if ((bits & flags.bytes) === 0) return this.#serializer.decode(payload.toString())
    // Bytes of their own: those that came are a part of a larger piece of memory, which a value that keeps them would keep.
    return this.#serializer.decode(new Uint8Array(payload))
  }
}

function sizeOf(payload: string | Uint8Array): number {
  return typeof payload === 'string' ? Buffer.byteLength(payload) : payload.length
}

/** Checks that something is what a serializer may return. */
export function checkPayload(field: string, payload: unknown): string | Uint8Array {
  if (payload instanceof Uint8Array) return payload
  // NUL does no harm in Redis; half a surrogate pair would come back as something else.
  if (typeof payload === 'string' && isWellFormed(payload)) return payload
  return failOption(field, 'must be a Uint8Array or a text without half a surrogate pair', payload)
}

function deflateBy({ algorithm, level }: Required<CacheCompression>): Deflate {
  if (algorithm === 'gzip') return (payload) => gzipAsync(payload, { level: level as number })
  return (payload) =>
    brotliAsync(payload, {
      params: {
        [constants.BROTLI_PARAM_QUALITY]: level as number,
        [constants.BROTLI_PARAM_SIZE_HINT]: payload.length,
      },
    })
}
