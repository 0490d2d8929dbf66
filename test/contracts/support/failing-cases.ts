import type { ContractCase } from 'spillway/testing'
import { onTestFinished, vi } from 'vitest'

/** Runs a contract's cases, and says which of them fail. */
export async function failingCases(cases: readonly ContractCase[]): Promise<string[]> {
  // What is broken on purpose may warn, and leave rejections behind that nobody handles.
  const warn = vi.spyOn(process, 'emitWarning').mockImplementation(() => undefined)
  onTestFinished(() => warn.mockRestore())
  const failed: string[] = []
  for (const { name, run } of cases) await run().catch(() => failed.push(name))
  return failed
}
