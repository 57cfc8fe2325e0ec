"""Links to files that are no pages: to a module of the API, or to GitHub."""

import pathlib

from docutils import nodes
from sphinx import addnodes


def lead(app, doctree):
  """Handles `doctree-read`, before such files are taken for downloads."""
  root = pathlib.Path(app.srcdir)
  page = pathlib.Path(app.env.doc2path(app.env.current_document.docname))
  for node in list(doctree.findall(addnodes.download_reference)):
    path = (page.parent / node['reftarget']).resolve().relative_to(root)
    node.replace_self(link(app, path, node.children))


def link(app, path, children):
  """A link to a file of the repository, given from its root."""
  if path.suffix == '.py' and path.parts[0] == 'align_jax':
    parts = [x for x in path.with_suffix('').parts if x != '__init__']
    if '__main__' not in parts:
      where = dict(reftype='mod', reftarget='.'.join(parts), refwarn=True)
      return addnodes.pending_xref(
        '', *children, refdomain='py', refexplicit=True, **where
      )
  address = f'{app.config.html_theme_options["repository_url"]}/blob/main'
  return nodes.reference('', '', *children, refuri=f'{address}/{path}')
