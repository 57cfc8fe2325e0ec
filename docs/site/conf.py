"""The site: the repository's own pages, and an API page for every module.

The source folder is the repository's root, so that pages are read where they
are and their relative links hold. `launch/docs.sh` builds it.
"""

import importlib.util
import os
import pathlib
import sys
import tomllib

SITE = pathlib.Path(__file__).parent
ROOT = SITE.parents[1]
sys.path[:0] = [str(ROOT), str(SITE)]

import docstrings  # noqa: E402
import links  # noqa: E402
import public  # noqa: E402
from sphinx.util import logging  # noqa: E402

os.environ.setdefault('JAX_PLATFORMS', 'cpu')  # imports look at no accelerator
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
REPOSITORY = 'https://github.com/align-jax/align_jax'

project = PROJECT['name']
author = PROJECT['authors'][0]['name']
copyright = author
release = version = PROJECT['version']

root_doc = 'README'
include_patterns = [
  '*.md',
  'docs/*.md',
  'docs/site/**.md',
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
myst_heading_anchors = 4
autodoc_member_order = 'bysource'
autodoc_typehints = 'none'  # the signature has them
autodoc_default_options = {'members': True, 'ignore-module-all': True}
autosummary_ignore_module_all = True

html_theme = 'sphinx_book_theme'
html_title = project
html_static_path = ['static']
html_css_files = ['site.css']
html_theme_options = {
  'repository_url': REPOSITORY,
  'use_repository_button': True,
  'show_navbar_depth': 1,
}


def setup(app):
  app.connect('source-read', add_contents)
  app.connect('doctree-read', links.lead, priority=100)
  app.connect('autodoc-process-docstring', docstrings.rewrite)
  app.connect('env-check-consistency', check_api)


def add_contents(app, name, source):
  """The first page is README.md, and the table of contents."""
  if name == app.config.root_doc:
    source[0] += (SITE / 'contents.md').read_text()


def check_api(app, env):
  """A public name without a place on the API pages is a warning."""
  domain = env.get_domain('py')
  for line in public.missing({*domain.objects}, ROOT, 'align_jax'):
    logging.getLogger('api').warning(line)
