/** Whether databases take it as it is: a text without NUL and without half a surrogate pair. */
export function isStorable(text: unknown): text is string {
  return typeof text === 'string' && !text.includes('\0') && isWellFormed(text)
}

/** Whether a text has no half surrogate pairs: `String.prototype.isWellFormed`, which TypeScript's ES2023 doesn't know yet; Node 20 has it. */
export const isWellFormed: (text: string) => boolean =
  'isWellFormed' in String.prototype
    ? (text) => (text as string & { isWellFormed(): boolean }).isWellFormed()
    : (text) => !/[\uD800-\uDBFF](?![\uDC00-\uDFFF])|(?<![\uD800-\uDBFF])[\uDC00-\uDFFF]/.test(text)
