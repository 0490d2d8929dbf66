/** What came of the tests on one version. */
export interface Summary {
  readonly files: number
  readonly passed: number
  readonly skipped: number
  readonly failed: number
  readonly failures: readonly { readonly file: string; readonly name: string }[]
}

export interface Report {
  readonly testResults: readonly {
    readonly name: string
    readonly status: string
    readonly message?: string
    readonly assertionResults: readonly { readonly status: string; readonly fullName: string }[]
  }[]
}

export interface Row extends Partial<Summary> {
  readonly version: string
  readonly seconds?: number
  readonly problem?: string
}

export function summaryOf(report: Report): Summary
export function table(rows: readonly Row[]): string
