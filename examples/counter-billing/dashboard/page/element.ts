type Attributes = Readonly<Record<string, string | number | boolean | undefined>>

/** Makes an element: attributes that are false or nothing are left out. Text is text, whatever is in it. */
export function element<Name extends keyof HTMLElementTagNameMap>(
  name: Name,
  attributes: Attributes = {},
  ...children: readonly (Node | string)[]
): HTMLElementTagNameMap[Name] {
  const made = document.createElement(name)
  for (const [attribute, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) made.setAttribute(attribute, value === true ? '' : String(value))
  }
  made.append(...children)
  return made
}

/** An element that the page has. */
export function found(id: string): HTMLElement {
  const element = document.getElementById(id)
  if (element === null) throw new Error(`the page has no #${id}`)
  return element
}

/** Changes a text only where it is another one: what is announced is not announced again. */
export function write(node: Element, text: string): void {
  if (node.textContent !== text) node.textContent = text
}
