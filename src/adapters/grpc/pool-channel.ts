import { type Deferred, deferred } from '../../internal/deferred.js'
import {
  channelStateOf,
  connectivityOf,
  type GrpcChannel,
  type GrpcChannelState,
  type GrpcClient,
} from './grpc-client.js'

type StateListener<Client extends GrpcClient> = (
  channel: PoolChannel<Client>,
  from: GrpcChannelState,
  to: GrpcChannelState,
) => void

/** One channel of a pool, with the client that calls through it. */
export class PoolChannel<Client extends GrpcClient> {
  readonly index: number
  readonly client: Client
  /** Where it leads, without the resolver's scheme. */
  readonly address: string
  /** Calls in flight. */
  inFlight = 0
  /** Calls in all. */
  calls = 0
  readonly #channel: GrpcChannel
  readonly #onChange: StateListener<Client>
  readonly #closed: Deferred<void> = deferred()
  #seen: GrpcChannelState
  #isClosed = false

  constructor(index: number, client: Client, onChange: StateListener<Client>) {
    this.index = index
    this.client = client
    this.#channel = client.getChannel()
    this.address = this.#channel.getTarget().replace(/^dns:\/*/, '')
    this.#onChange = onChange
    this.#seen = this.state()
    this.#watch()
  }

  /** Resolves once it is closed. */
  get closed(): Promise<void> {
    return this.#closed.promise
  }

  state(): GrpcChannelState {
    return channelStateOf(this.#channel)
  }

  /** Its state; starts connecting if it is idle. */
  connect(): GrpcChannelState {
    const state = this.state()
    return state === 'idle' ? channelStateOf(this.#channel, true) : state
  }

  stats(): { channel: number; address: string; state: GrpcChannelState; inFlight: number; calls: number } {
    const { index, address, inFlight, calls } = this
    return { channel: index, address, state: this.state(), inFlight, calls }
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.client.close()
    this.#closed.resolve()
    // grpc-js tells a channel its addresses in a later turn where no name has to be looked up, and one that was closed by then
    // connects after all, for good (1.14). By now that turn is queued, so this comes after it.
    setImmediate(() => {
      if (this.state() !== 'shutdown') this.client.close()
    })
  }

  /** grpc-js tells one change for each time that one asks; without a deadline that needs no timer. */
  #watch(): void {
    const from = this.#seen
    const to = this.state()
    this.#seen = to
    if (to !== 'shutdown') {
      this.#channel.watchConnectivityState(connectivityOf(to), Number.POSITIVE_INFINITY, () => this.#watch())
    }
    if (from !== to) this.#onChange(this, from, to)
  }
}
