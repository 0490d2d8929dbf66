import { bundleForNode } from '../../bench/harness/bundle-for-node.ts'

const entries = {
  service: 'examples/counter-billing/main.ts',
  load: 'test/chaos/load.ts',
  publisher: 'test/chaos/publisher.ts',
} as const

/** The files of the programs, by name. */
export type Programs = Readonly<Record<keyof typeof entries, string>>

/** Bundles what runs in processes of its own: one that is killed is back in half a second. */
export function bundlePrograms(folder: string): Promise<Programs> {
  return bundleForNode(entries, folder, 'sources')
}
