import { balanceBook, moneyBook, publishedBook } from './billing-books.ts'
import { durableBook, liveBook, meteredBook, readsBook } from './counter-books.ts'
import type { Book, Evidence } from './evidence.ts'

/** Compares all that was answered with all that is stored. */
export function audit(evidence: Evidence): Book[] {
  return [durableBook, liveBook, readsBook, meteredBook, publishedBook, moneyBook, balanceBook].map((book) =>
    book(evidence),
  )
}
