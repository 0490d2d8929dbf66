// Lets Node run TypeScript, and find this package by its name: node --import ./examples/tsx.mjs examples/counter-billing/main.ts
//
// The command `tsx` does so, too. But it kills a program that has not noticed a signal within 60 ms, as one under load may not, and with it
// what that program has accepted and not written yet.
import { fileURLToPath } from 'node:url'

process.env['TSX_TSCONFIG_PATH'] ??= fileURLToPath(new URL('../tsconfig.check.json', import.meta.url))
await import('tsx')
