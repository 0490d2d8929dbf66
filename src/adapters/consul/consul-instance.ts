/** An instance of a service, as Consul's health endpoint tells it. */
export interface ConsulInstance {
  /** Its node and its service id, `NODE/SERVICE_ID`: Consul's service ids are unique on one node only. */
  readonly id: string
  /** Its service id at its agent. */
  readonly serviceId: string
  /** The service. */
  readonly service: string
  /** Its address, or that of its node where it has none of its own. */
  readonly host: string
  /** Its port; 0 where it was registered without one. */
  readonly port: number
  /**
   * `Weights.Passing`, or `Weights.Warning` while a check of it warns. 1 unless it was registered with another; 0 is
   * never picked.
   */
  readonly weight: number
  /** The worst of its checks, its node's included. */
  readonly status: 'passing' | 'warning'
  /** Its tags. */
  readonly tags: readonly string[]
  /** Its own metadata. */
  readonly meta: Readonly<Record<string, string>>
  /** The node that it runs on. */
  readonly node: string
  /** The node's datacenter. */
  readonly datacenter: string
}

/** One element of what `/v1/health/service/:service` answers. */
interface HealthEntry {
  readonly Node: { readonly Node: string; readonly Address: string; readonly Datacenter?: string }
  readonly Service: {
    readonly ID: string
    readonly Service: string
    readonly Address?: string
    readonly Port?: number
    readonly Tags?: readonly string[] | null
    readonly Meta?: Readonly<Record<string, string>> | null
    readonly Weights?: { readonly Passing?: number; readonly Warning?: number } | null
  }
  readonly Checks?: readonly { readonly Status: string }[] | null
}

/**
 * The instances of an answer that may be called, in the order of their ids, so that every process sees the same list.
 *
 * @throws an error when the text isn't what Consul answers.
 */
export function parseInstances(text: string): ConsulInstance[] {
  const entries: unknown = JSON.parse(text)
  if (!Array.isArray(entries)) throw new TypeError('it is no list')
  return entries
    .map((entry: HealthEntry) => instanceOf(entry))
    .filter((instance) => instance !== undefined)
    .sort((a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : 0))
}

/** Undefined for one that is critical, as in Consul's own DNS. Maintenance is a critical check. */
function instanceOf({ Node: node, Service: service, Checks: checks }: HealthEntry): ConsulInstance | undefined {
  const statuses = (checks ?? []).map((check) => check.Status)
  const status = statuses.every((each) => each === 'passing') ? 'passing' : 'warning'
  if (statuses.some((each) => each !== 'passing' && each !== 'warning')) return undefined
  if (typeof node.Node !== 'string' || typeof service.ID !== 'string') throw new TypeError('an entry has no node or id')
  return {
    id: `${node.Node}/${service.ID}`,
    serviceId: service.ID,
    service: service.Service,
    host: service.Address || node.Address,
    port: service.Port ?? 0,
    weight: (status === 'passing' ? service.Weights?.Passing : service.Weights?.Warning) ?? 1,
    status,
    tags: service.Tags ?? [],
    meta: service.Meta ?? {},
    node: node.Node,
    datacenter: node.Datacenter ?? '',
  }
}
