"""The site: the repository's own pages, and an API page for every module.

The source folder is the repository's root, so that pages are read where they
are and their relative links hold. `launch/docs.sh` builds it.
"""

import pathlib
import sys
import tomllib

SITE = pathlib.Path(__file__).parent
ROOT = SITE.parents[1]
sys.path[:0] = [str(ROOT), str(SITE)]

import docstrings  # noqa: E402
import gallery  # noqa: E402
import papers  # noqa: E402
import public  # noqa: E402

PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text('utf-8'))['project']
REPOSITORY = 'https://github.com/align-jax/align_jax'

project = PROJECT['name']
author = copyright = PROJECT['authors'][0]['name']
release = version = PROJECT['version']

root_doc = 'README'
include_patterns = [
  '*.md',
  'docs/*.md',
  'docs/claims/*.md',
  'docs/site/*.md',
  'docs/site/api/*.rst',
  'launch/README.md',
  'notebooks/*.ipynb',
]
exclude_patterns = ['.*', 'runs', 'build', 'docs/site/contents.md']
source_suffix = {
  '.rst': 'restructuredtext',  # first: what autosummary writes
  '.md': 'myst-nb',
  '.ipynb': 'myst-nb',
}
extensions = [
  'myst_nb',
  'sphinx.ext.autodoc',
  'sphinx.ext.autosummary',
  'sphinx.ext.viewcode',
]
templates_path = [str(SITE / 'templates')]

# The tests execute the notebooks; the site shows the outputs that they keep.
nb_execution_mode = 'off'
nb_render_markdown_format = 'myst'  # which has tables
myst_enable_extensions = ['dollarmath']
myst_heading_anchors = 4
highlight_language = 'none'  # of blocks that name no other
smartquotes = False  # '' is a text here
add_module_names = False
python_maximum_signature_line_length = 100
# Defaults as the code has them: their values are this machine's, such as the
# whole of os.environ.
autodoc_preserve_defaults = True
autodoc_member_order = 'bysource'
autodoc_default_options = {'members': True, 'ignore-module-all': True}
autosummary_ignore_module_all = True
autosummary_context = {'start': public.starts('align_jax')}

html_theme = 'sphinx_book_theme'
html_title = project
html_use_index = html_domain_indices = False  # the search finds names
html_static_path = ['static']
html_css_files = ['site.css']
html_theme_options = {
  'repository_url': REPOSITORY,
  'use_repository_button': True,
  'home_page_in_toc': True,
  'show_navbar_depth': 1,
  # Every page with the whole tree takes more time than all else together.
  'collapse_navbar': True,
  'show_toc_level': 2,
  'navbar_persistent': [],  # the sidebar has the search
}

# Pages that are made here: from their source, all that is shown.
MADE = {
  root_doc: lambda text: text + (SITE / 'contents.md').read_text('utf-8'),
  'docs/papers': papers.page,
  'docs/site/gallery': gallery.page,
}


def make(app, name, source):
  """Handles `source-read`."""
  if name in MADE:
    source[0] = MADE[name](source[0])


def check_api(app, env):
  """Handles `env-check-consistency`: a public name is on an API page."""
  from sphinx.util import logging

  shown = set(env.get_domain('py').objects)
  for line in public.missing(ROOT, 'align_jax', shown):
    logging.getLogger('api').warning(line)


def setup(app):
  import links  # here, as the tests import this file without Sphinx

  public.unwrap(ROOT, 'align_jax')
  app.connect('source-read', make)
  app.connect('doctree-read', links.lead, priority=100)
  app.connect('autodoc-process-docstring', docstrings.rewrite)
  app.connect('autodoc-process-signature', docstrings.shorten)
  app.connect('autodoc-skip-member', docstrings.skip)
  app.connect('env-check-consistency', check_api)
