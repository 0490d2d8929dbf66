import { fileURLToPath } from 'node:url'
import {
  type Client,
  type ClientOptions,
  credentials,
  loadPackageDefinition,
  type ServiceClientConstructor,
  type ServiceDefinition,
} from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'
import type { Unary } from '../counter/protocol.ts'

export interface Balance {
  readonly userId: string
  /** What was recharged, less what was charged; in minor units, as all money. */
  readonly balance: number
  /** What reservations hold of it. */
  readonly held: number
}

export interface ServiceRequest {
  readonly userId: string
  readonly service: string
}

export interface FreeQuota extends ServiceRequest {
  /** Uses that are free in a period. */
  readonly limit: number
  readonly used: number
  /** What reservations hold of them. */
  readonly held: number
  readonly period: string
  /** When the next period begins, in milliseconds since the epoch. */
  readonly resetsAt: number
}

export interface CheckQuotaRequest extends ServiceRequest {
  readonly count: number
  /** Uses that the caller has metered and not handed on yet. */
  readonly pending: number
}

export interface CheckQuotaReply {
  readonly allowed: boolean
  /** How many of the uses would be free. */
  readonly free: number
  /** What the others would cost. */
  readonly charged: number
  /** What one costs beyond the free ones; none where there is nothing beyond them. */
  readonly price?: number | undefined
  readonly quota: FreeQuota
  readonly balance: Balance
}

export interface DeductQuotaRequest extends ServiceRequest {
  readonly requestId: string
  readonly count: number
}

export interface Deduction extends DeductQuotaRequest {
  /** How many of the uses were free. */
  readonly free: number
  /** What the others cost. */
  readonly charged: number
  /** The balance right after it. */
  readonly balance: number
}

export interface RechargeRequest {
  readonly requestId: string
  readonly userId: string
  readonly amount: number
}

export interface RechargeReply extends RechargeRequest {
  /** The balance right after it. */
  readonly balance: number
}

export interface ReserveRequest extends DeductQuotaRequest {
  readonly ttlMs: number
}

export interface Reservation extends DeductQuotaRequest {
  /** How many of the uses are free. */
  readonly free: number
  /** What is held of the balance for the others. */
  readonly held: number
  /** When it ends by itself, in milliseconds since the epoch. */
  readonly expiresAt: number
}

export interface ReleaseRequest {
  /** The reservation's. */
  readonly requestId: string
  readonly userId: string
}

export interface SettleRequest extends ReleaseRequest {
  /** What was used: at most what was reserved. */
  readonly count: number
}

export interface ReleaseReply extends ReleaseRequest {
  readonly service: string
  /** `released`, or what had become of it before. */
  readonly state: 'released' | 'settled' | 'expired'
}

/** The uses of one quota by one user in one period, summed. */
export interface UsageSum {
  readonly userId: string
  readonly quotaType: string
  /** `2026-11-20`, `2026-11` or `total`, in UTC. */
  readonly period: string
  readonly value: number
}

export interface RecordUsageRequest {
  readonly batchId: string
  readonly totals: readonly UsageSum[]
}

export interface RecordUsageReply {
  /** What can't be counted, for good, by its place in the request. */
  readonly refused: readonly { readonly index: number; readonly reason: string }[]
}

/** What `billing.proto` makes a client. */
export interface BillingClient extends Client {
  getBalance: Unary<{ readonly userId: string }, Balance>
  getFreeQuota: Unary<ServiceRequest, FreeQuota>
  checkQuota: Unary<CheckQuotaRequest, CheckQuotaReply>
  deductQuota: Unary<DeductQuotaRequest, Deduction>
  recharge: Unary<RechargeRequest, RechargeReply>
  reserve: Unary<ReserveRequest, Reservation>
  settle: Unary<SettleRequest, Deduction>
  release: Unary<ReleaseRequest, ReleaseReply>
  recordUsage: Unary<RecordUsageRequest, RecordUsageReply>
}

/** When it is first needed: a gateway without billing does without the file. */
function load(): ServiceClientConstructor {
  loaded ??= (
    loadPackageDefinition(
      loadSync(fileURLToPath(new URL('./billing.proto', import.meta.url)), {
        longs: Number,
        defaults: true,
        arrays: true,
        oneofs: true,
      }),
    ) as unknown as { spillway: { billing: { v1: { BillingService: ServiceClientConstructor } } } }
  ).spillway.billing.v1.BillingService
  return loaded
}
let loaded: ServiceClientConstructor | undefined

/** The service, for a server. */
export function billingService(): ServiceDefinition {
  return load().service
}

/** A client with a channel of its own. */
export function billingClient(address: string, options?: ClientOptions): BillingClient {
  return new (load())(address, credentials.createInsecure(), options) as unknown as BillingClient
}
