/** The ways of accounting that are compared. */
export const paths = ['consume-sync', 'upsert', 'check-and-consume', 'consume'] as const

export type Path = (typeof paths)[number]

/** What a path is called and does. */
export interface PathText {
  readonly title: string
  readonly does: string
  readonly inRequest: boolean
}

/** The paths in the request, beside which the others are held. */
export const pathsInRequest = ['consume-sync', 'upsert'] as const satisfies readonly Path[]

export const pathTexts: Readonly<Record<Path, PathText>> = {
  'consume-sync': {
    title: 'in the request, consumeQuotaSync',
    does: 'checks and counts in one statement of `PostgresQuotaStore`, so that the limit is never passed; answers when it is committed',
    inRequest: true,
  },
  upsert: {
    title: 'in the request, one upsert',
    does: 'counts with one prepared upsert by hand, checks nothing; answers when it is committed',
    inRequest: true,
  },
  'check-and-consume': {
    title: 'behind it, checkQuota and consumeQuota',
    does: 'checks what is stored and what waits here, then hands the use to a `QuotaConsumer`; answers at once',
    inRequest: false,
  },
  consume: {
    title: 'behind it, consumeQuota',
    does: 'hands the use to a `QuotaConsumer`, checks nothing; answers at once',
    inRequest: false,
  },
}

/** What a service says once all that it accepted is written. */
export interface ServiceReport {
  /** The most uses that waited at a time to be written. */
  readonly mostPending: number
  /** How many batches they were written in. */
  readonly batches: number
  /** How many were given up. */
  readonly givenUp: number
  /** How many the consumer had no room for, so that they were written in the request. */
  readonly fallbacks: number
}

export function isPath(text: string): text is Path {
  return (paths as readonly string[]).includes(text)
}

/** Where a path counts. */
export function tableOf(path: Path): string {
  return `usage_${path.replaceAll('-', '_')}`
}
