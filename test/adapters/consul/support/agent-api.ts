/** A check, as the agent tells of it. */
export interface AgentCheck {
  readonly CheckID: string
  readonly ServiceID: string
  readonly Status: string
  readonly Output: string
}

/** What a test does to Consul behind the back of the package. */
export class AgentApi {
  readonly #address: string
  readonly #token: string | undefined

  constructor(address: string, token?: string) {
    this.#address = address
    this.#token = token
  }

  /** One request; what isn't 200 throws. */
  async send(method: 'GET' | 'PUT', path: string, body?: unknown): Promise<unknown> {
    const answer = await fetch(`${this.#address}${path}`, {
      method,
      headers: this.#token === undefined ? {} : { 'x-consul-token': this.#token },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    const text = await answer.text()
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text}`)
    return text === '' ? undefined : JSON.parse(text)
  }

  /** Registers an instance, with a TTL check that has this status if one is given. */
  register(
    service: string,
    id: string,
    more: { port?: number; status?: 'passing' | 'warning' | 'critical' } & Record<string, unknown> = {},
  ): Promise<unknown> {
    const { port = 1, status, ...fields } = more
    const check = status === undefined ? {} : { Check: { CheckID: `service:${id}`, TTL: '10m', Status: status } }
    return this.send('PUT', '/v1/agent/service/register', { ID: id, Name: service, Port: port, ...check, ...fields })
  }

  deregister(id: string): Promise<unknown> {
    return this.send('PUT', `/v1/agent/service/deregister/${id}`)
  }

  /** Reports the status of an instance that was registered with one. */
  report(id: string, status: 'passing' | 'warning' | 'critical'): Promise<unknown> {
    return this.send('PUT', `/v1/agent/check/update/service:${id}`, { Status: status })
  }

  maintenance(id: string, enable: boolean): Promise<unknown> {
    return this.send('PUT', `/v1/agent/service/maintenance/${id}?enable=${enable}`)
  }

  /** The agent's own view of an instance; undefined where it knows none. */
  async service(id: string): Promise<Record<string, unknown> | undefined> {
    const services = (await this.send('GET', '/v1/agent/services')) as Record<string, Record<string, unknown>>
    return services[id]
  }

  /** The checks of an instance. */
  async checks(id: string): Promise<AgentCheck[]> {
    const checks = (await this.send('GET', '/v1/agent/checks')) as Record<string, AgentCheck>
    return Object.values(checks).filter(({ ServiceID }) => ServiceID === id)
  }

  /** The check of an instance that has one. */
  async check(id: string): Promise<AgentCheck | undefined> {
    return (await this.checks(id))[0]
  }
}
