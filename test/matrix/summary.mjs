/**
 * What vitest's JSON report comes to. A file that could not be loaded has no tests, and counts as a failure.
 *
 * @param {{ testResults: { name: string, status: string, message?: string, assertionResults: { status: string, fullName: string }[] }[] }} report
 */
export function summaryOf({ testResults }) {
  const tests = testResults.flatMap(({ name: file, assertionResults }) =>
    assertionResults.map(({ status, fullName }) => ({ file, status, name: fullName })),
  )
  const broken = testResults
    .filter(
      ({ status, assertionResults }) => status === 'failed' && !assertionResults.some((one) => one.status === 'failed'),
    )
    .map(({ name: file, message }) => ({ file, name: `the file itself: ${(message ?? '').split('\n')[0]}` }))
  const failures = [...tests.filter(({ status }) => status === 'failed'), ...broken]
  return {
    files: testResults.length,
    passed: tests.filter(({ status }) => status === 'passed').length,
    skipped: tests.filter(({ status }) => ['pending', 'skipped', 'todo'].includes(status)).length,
    failed: failures.length,
    failures: failures.map(({ file, name }) => ({ file, name })),
  }
}

/**
 * A line a version.
 *
 * @param {{ version: string, files?: number, passed?: number, skipped?: number, failed?: number, seconds?: number, problem?: string }[]} rows
 */
export function table(rows) {
  const cells = rows.map(({ version, files, passed, skipped, failed, seconds, problem }) => [
    ...[version, files, passed, skipped, failed].map((cell) => String(cell ?? '-')),
    seconds === undefined ? '-' : `${Math.round(seconds)} s`,
    problem ?? (failed === 0 ? 'passed' : 'FAILED'),
  ])
  const all = [['node', 'files', 'passed', 'skipped', 'failed', 'took', 'outcome'], ...cells]
  const widths = all[0].map((_, column) => Math.max(...all.map((line) => line[column].length)))
  return all
    .map((line) =>
      line
        .map((cell, column) => cell.padEnd(widths[column]))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}
