/** A place in a {@link LinkedList}. */
export interface ListNode<T> {
  readonly value: T
  prev: ListNode<T> | undefined
  next: ListNode<T> | undefined
}

/** A doubly linked list: push, shift and remove anywhere, each in constant time. */
export class LinkedList<T> {
  #head: ListNode<T> | undefined
  #tail: ListNode<T> | undefined

  /** The first value. */
  get first(): T | undefined {
    return this.#head?.value
  }

  /** The last value. */
  get last(): T | undefined {
    return this.#tail?.value
  }

  /** Whether it holds nothing. */
  get empty(): boolean {
    return this.#head === undefined
  }

  /** Puts a value at the end; keep the node to remove it. */
  push(value: T): ListNode<T> {
    const node: ListNode<T> = { value, prev: this.#tail, next: undefined }
    if (this.#tail === undefined) this.#head = node
    else this.#tail.next = node
    this.#tail = node
    return node
  }

  /** Takes a node out. It must be in this list. */
  remove(node: ListNode<T>): void {
    if (node.prev === undefined) this.#head = node.next
    else node.prev.next = node.next
    if (node.next === undefined) this.#tail = node.prev
    else node.next.prev = node.prev
    node.prev = undefined
    node.next = undefined
  }

  /** Takes the first value out. */
  shift(): T | undefined {
    const head = this.#head
    if (head !== undefined) this.remove(head)
    return head?.value
  }

  /** The values from first to last. */
  *[Symbol.iterator](): IterableIterator<T> {
    for (let node = this.#head; node !== undefined; node = node.next) yield node.value
  }
}
