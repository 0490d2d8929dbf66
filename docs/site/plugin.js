import { Comment, CommentTag, Converter, IndexEvent, KindRouter, ReflectionKind } from 'typedoc'

const api = 'API'

// What one meets first, in this order. All other pages stand by their titles.
const start = [
  'docs/guides/which-primitive.md',
  'examples/counter-billing/README.md',
  'docs/guides/tuning.md',
  'docs/guides/many-machines.md',
  'docs/guides/testing.md',
]

/** In which part of the navigation a page of the repository stands. */
function groupOf(path) {
  if (start.includes(path)) return 'Start'
  if (path.startsWith('docs/guides/')) return 'Guides'
  if (path.startsWith('docs/coming-from/')) return 'Coming from'
  if (path.startsWith('docs/adapters/')) return 'Adapters'
  return 'Design'
}

/** What a page calls itself. */
function titleOf(document) {
  const text = document.content.map((part) => part.text).join('')
  const heading = /^# (.+)$/m.exec(text)?.[1]
  if (heading === undefined) throw new Error(`${document.name} has no first heading`)
  return heading.replaceAll('`', '')
}

/** The name by which an entry of the sources is imported. */
function specifierOf(name) {
  return name === 'index' ? 'spillway' : `spillway/${name.replace(/^adapters\//, '')}`
}

/** Leads from what a page is named after, as in `FileSink and asWritable`, to that page. */
function linkPages(project) {
  const pages = new Map(
    (project.documents ?? []).flatMap((page) => page.name.split(' and ').map((name) => [name, page])),
  )
  for (const reflection of project.getReflectionsByKind(
    ReflectionKind.Module | ReflectionKind.Class | ReflectionKind.Function,
  )) {
    const page = pages.get(reflection.name)
    if (page === undefined) continue
    const link = { kind: 'inline-tag', tag: '@link', text: page.name, target: page }
    for (const described of reflection.signatures ?? [reflection]) {
      described.comment ??= new Comment()
      described.comment.blockTags.unshift(new CommentTag('@guide', [link]))
    }
  }
}

/** A page has the address of its file, so that the site is laid out like the repository. */
class FileRouter extends KindRouter {
  getIdealBaseName(reflection) {
    const path = reflection.isDocument() ? reflection.frontmatter['path'] : undefined
    return typeof path === 'string'
      ? path.replace(/\.md$/, '').replace(/^docs\//, '')
      : super.getIdealBaseName(reflection)
  }
}

/** Gives pages their own titles and groups, and entries the names that one imports. */
export function load(app) {
  app.renderer.defineRouter('files', FileRouter)

  app.converter.on(Converter.EVENT_RESOLVE_BEGIN, ({ project }) => {
    for (const document of project.documents ?? []) {
      const path = project.files.getReflectionPath(document)?.replace(`${process.cwd()}/`, '')
      if (path === undefined) throw new Error(`${document.name} has no file`)
      document.name = titleOf(document)
      document.frontmatter['group'] = groupOf(path)
      document.frontmatter['path'] = path
    }
    for (const entry of project.getChildrenByKind(ReflectionKind.Module)) {
      entry.name = specifierOf(entry.name)
      entry.comment ??= new Comment()
      entry.comment.blockTags.push(new CommentTag('@group', [{ kind: 'text', text: api }]))
    }
    linkPages(project)
  })

  app.converter.on(
    Converter.EVENT_RESOLVE_END,
    ({ project }) => {
      const placeOf = (reflection) => {
        const place = start.indexOf(reflection.isDocument() ? String(reflection.frontmatter['path']) : '')
        return place === -1 ? start.length : place
      }
      for (const group of project.groups ?? []) {
        group.children.sort((a, b) => placeOf(a) - placeOf(b) || (a.name < b.name ? -1 : 1))
      }
    },
    -1000, // after the groups were made
  )

  // A word in a guide counts as much as one in a name: otherwise ten options of that name hide the page that explains them.
  app.renderer.on(IndexEvent.PREPARE_INDEX, (index) => {
    index.searchFieldWeights.document = index.searchFieldWeights.name
  })
}
