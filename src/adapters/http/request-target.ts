import { failOption } from '../../core/options.js'
import { checkUrl, type HttpQueryValue, type HttpRequestOptions, type HttpSettings } from './http-options.js'
import { checkRecord } from './request-headers.js'

/** Where a request goes. */
export interface RequestTarget {
  /** Empty where the balancer decides. */
  readonly origin: string
  /** Without the query: what errors and events show. */
  readonly pathname: string
  /** With the query. */
  readonly path: string
}

/** A path is put after that of `baseUrl`, however it begins, so that it can't lead to another origin. */
export function resolveTarget(
  url: string | URL,
  query: HttpRequestOptions['query'],
  settings: Pick<HttpSettings, 'base' | 'balancer'>,
): RequestTarget {
  const { base, balancer } = settings
  const absolute = url instanceof URL || (typeof url === 'string' && /^[a-z][a-z\d+.-]*:\/\//i.test(url))
  let target: URL
  if (absolute) {
    if (balancer !== undefined) failOption('url', 'must be a path where a balancer chooses the origin', hideQuery(url))
    target = checkUrl('url', url)
  } else {
    if (typeof url !== 'string') failOption('url', 'must be a string or a URL', url)
    if (base === undefined && balancer === undefined) {
      failOption('url', 'must be a whole URL where there is no baseUrl', hideQuery(url))
    }
    const prefix = (base?.pathname ?? '').replace(/\/$/, '')
    // An origin of its own: whether this can be parsed doesn't depend on where it goes.
    target = new URL(`http://path${prefix}${/^[/?#]/.test(url) ? '' : '/'}${url}`)
  }
  addQuery(target, query)
  const origin = absolute ? target.origin : balancer === undefined ? (base as URL).origin : ''
  return { origin, pathname: target.pathname, path: target.pathname + target.search }
}

function addQuery(target: URL, query: HttpRequestOptions['query']): void {
  checkRecord('query', query)
  for (const [name, value] of Object.entries(query ?? {})) {
    for (const one of Array.isArray(value) ? (value as readonly HttpQueryValue[]) : [value as HttpQueryValue]) {
      if (one === undefined) continue
      if (!['string', 'number', 'bigint', 'boolean'].includes(typeof one)) {
        failOption(`query.${name}`, 'must be a string, number, bigint or boolean', one)
      }
      target.searchParams.append(name, String(one))
    }
  }
}

function hideQuery(url: string | URL): string {
  return String(url).replace(/[?#].*$/s, '')
}
