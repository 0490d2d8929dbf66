import { constants } from 'node:zlib'
import compress from '@fastify/compress'
import type { FastifyInstance } from 'fastify'

/** What is larger than this, in bytes, is compressed for who asks for it; below, it would hardly fit in fewer packets. */
export const uncompressedBytes = 1_000

/**
 * Compresses answers. A route that never has a long one says `compress: false`, and is spared the look at it. A stream comes as it is
 * written, each part of it flushed, so that nobody waits for what is there.
 */
export async function compressAnswers(app: FastifyInstance): Promise<void> {
  await app.register(compress, {
    threshold: uncompressedBytes + 1,
    encodings: ['br', 'gzip'],
    zlibOptions: { flush: constants.Z_SYNC_FLUSH },
    brotliOptions: { flush: constants.BROTLI_OPERATION_FLUSH },
    // What comes compressed is refused as before: a small request must not become a large one.
    globalDecompression: false,
  })
}
