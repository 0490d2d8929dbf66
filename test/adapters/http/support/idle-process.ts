// A client with an idle connection, on a server that is unref'd: nothing keeps this process alive.
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createHttpClient } from 'spillway/http'
import * as undici from 'undici'

const server = createServer((_request, response) => response.end('ok'))
server.on('connection', (socket) => socket.unref())
server.listen(0, '127.0.0.1', async () => {
  const client = createHttpClient(undici, { baseUrl: `http://127.0.0.1:${(server.address() as AddressInfo).port}` })
  const { status } = await client.get('/')
  console.log(`answered ${status}, ${client.stats().idleConnections} idle`)
  server.unref()
})
