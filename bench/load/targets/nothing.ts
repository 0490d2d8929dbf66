// What HTTP alone costs: an answer, and nothing else.
import { listen } from './listen.ts'

const answer = { accepted: true }
await listen(() => answer)
