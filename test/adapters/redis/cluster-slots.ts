import type { RedisClusterServers } from '../../servers/redis-cluster.ts'

const slots = 16_384

/** The slot of a key, as the cluster itself says. */
export async function slotOf(cluster: RedisClusterServers | undefined, key: string): Promise<number> {
  return Number((await cluster?.command(0, 'CLUSTER', 'KEYSLOT', key))?.slice(1))
}

/** Which node has which slot, at this moment. */
export async function slotPlaces(cluster: RedisClusterServers | undefined): Promise<(slot: number) => number> {
  const lines = ((await cluster?.command(0, 'CLUSTER', 'NODES')) ?? '').split('\n')
  const nodes = (cluster?.nodes ?? []).map(({ port }) => {
    const line = lines.find((text) => text.includes(`127.0.0.1:${port}@`)) ?? ''
    return line
      .trim()
      .split(' ')
      .slice(8)
      .map((range) => range.split('-').map(Number))
  })
  return (slot) => {
    const node = nodes.findIndex((ranges) =>
      ranges.some(([from, to = from]) => slot >= (from ?? slots) && slot <= (to ?? -1)),
    )
    if (node < 0) throw new Error(`nobody has slot ${slot}`)
    return node
  }
}
