import type { QuotaClaim, QuotaKey, QuotaUsage } from '../../core/ports.js'
import { maxUsage } from '../../internal/usage.js'

/** What used and held may come to: a limit is never above what a number holds exactly. */
export function ceilingOf({ limit }: QuotaClaim): string {
  return String(Math.max(Math.min(limit, maxUsage), -1))
}

/** What a script says of use. */
export function usageOf(used: string | undefined, held: string | undefined): QuotaUsage {
  return { used: Number(used), held: Number(held) }
}

/** What the store keeps of whose a reservation is. */
export function ownerOf(text: unknown): QuotaKey | undefined {
  if (typeof text !== 'string') return undefined
  const [userId = '', quotaType = '', period = ''] = text.split('\0')
  return { userId, quotaType, period }
}
