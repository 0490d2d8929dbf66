import type { AuthMode } from '../auth/http-guard.ts'

/** Prints requests that one can try, as long as the demo stays up. */
export function printRequestToTry([url]: readonly string[], auth: string, mode: AuthMode): void {
  if (mode === 'required') {
    console.log(`
Try it, with the secret that you have given the client back-office in AUTH_CLIENT_SECRETS as JSON:
  curl -u back-office ${auth}/oauth/token -d grant_type=client_credentials
  curl -i ${url}/api/v1/counter/post-1/like -H 'authorization: Bearer …'
Ctrl-C ends it.`)
    return
  }
  const operation = { resource_id: 'post-1', counter_type: 'like', delta: 2 }
  const post = (path: string, body: object): string =>
    `curl -X POST ${url}/api/v1/${path} -H 'content-type: application/json' -d '${JSON.stringify(body)}'`
  console.log(`
Try it:
  ${post('counter/increment', { user_id: 'ann', ...operation })}
  ${post('counter/increment', { ...operation, ack: 'committed' })}
  curl -i ${url}/api/v1/counter/post-1/like
  curl '${url}/api/v1/counter?resource_id=post-1&limit=10&fresh=true'
  ${post('billing/recharge', { request_id: 'r1', user_id: 'ann', amount: 500 })}
  ${post('billing/deduct', { request_id: 'd1', user_id: 'ann', service: 'thumbnail', count: 120 })}
  curl ${url}/api/v1/billing/free-quota/ann/counter-writes
Ctrl-C ends it.`)
}
