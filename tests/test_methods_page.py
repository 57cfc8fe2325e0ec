"""docs/methods.md has a page for every method, and what it shows is valid."""

import ast
import copy
import functools
import pathlib
import re

import pytest

from align_jax.lab import proxies, sweep
from align_jax.losses import LOSSES, hparams_of
from align_jax.losses.kl import BIASED, KL_TERMS
from configs import methods, toy
from experiments import common

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / 'docs' / 'methods.md').read_text()
PAGES = dict(re.findall(r'^### (.+)\n((?:(?!^#).*\n)*)', PAGE, re.MULTILINE))
PYTHON = re.compile(r'^```python\n(.*?)^```', re.DOTALL | re.MULTILINE)
SNIPPETS = PYTHON.findall(PAGE)


def deviations():
  """What test_published says of losses that differ from others' code."""
  tree = ast.parse((ROOT / 'tests' / 'test_published.py').read_text())
  for node in tree.body:
    if isinstance(node, ast.Assign) and node.targets[0].id == 'DEVIATIONS':
      return ast.literal_eval(node.value)


@functools.cache
def config():
  return toy.get_config()


def after(snippet):
  """Fields of the toy's config, without its methods, and what is shown."""
  helpers = 'betas', 'rates', 'pairs', 'groups'
  scope = {name: getattr(methods, name) for name in helpers}
  scope['c'] = c = copy.deepcopy(config())
  for name in methods.zoo():
    del c.methods[name]
  exec(snippet, scope)
  return common.as_dict(scope['c'])


@pytest.mark.parametrize('name', {**LOSSES, **methods.zoo()})
def test_every_method_has_a_page(name):
  text = PAGES[name]
  assert PYTHON.search(text) and len(list(filter(None, text.splitlines()))) < 25
  if name not in methods.zoo():
    return
  lines = methods.LINES
  row = f'({name})' if name in lines else name
  place = f'row {row} of the table above'
  if f'\n| {row} |' not in PAGE:
    place = 'not measured yet'
  assert f'Place on the toy frontier: {place}.' in text
  shown = after(PYTHON.search(text)[1])['methods']
  assert shown == {name: methods.zoo()[name]}


@pytest.mark.parametrize('name', LOSSES)
def test_a_page_cites_the_paper_of_its_loss(name):
  text, paper = PAGES[name], LOSSES[name].paper
  assert f'\nSource: {paper}' in text if paper else '\nSource' not in text


def test_every_page_with_a_place_is_of_the_zoo():
  placed = {name for name, text in PAGES.items() if 'toy frontier' in text}
  assert placed == set(methods.zoo())


@pytest.mark.parametrize('kl', KL_TERMS)
def test_the_table_says_which_kl_terms_are_biased(kl):
  (row,) = re.findall(rf'^\| `{kl}` \|.*\| (.+) \|$', PAGE, re.MULTILINE)
  if kl in BIASED:
    assert row == f'**biased**: {BIASED[kl]}'
  else:
    assert row == ('none: no penalty' if kl == 'none' else 'right')


@pytest.mark.parametrize(('name', 'how'), deviations().items())
def test_deviations_are_quoted(name, how):
  assert f'*Differs*: {how}.' in ' '.join(PAGES[name].split())


@pytest.mark.parametrize('snippet', SNIPPETS)
def test_snippets_are_valid(snippet):
  cfg = after(snippet)
  read = {name: methods.zoo()[name] for name in ('dpo', 'rloo')}  # by others
  arms = {**read, **cfg['methods']}
  runs = sweep.sweep({**cfg, 'arms': arms, 'seeds': 1})
  common.check(cfg, runs)
  proxy = cfg['proxy']
  assert set(proxy['loss_kwargs']) <= set(hparams_of(LOSSES[proxy['loss']]))


def test_a_page_of_a_loss_shows_that_loss():
  for name in LOSSES:
    snippet = PYTHON.search(PAGES[name])[1]
    cfg = after(snippet)
    if name == 'sft':
      assert 'c.sft' in snippet
    elif name in proxies.PROXIES:
      assert cfg['proxy']['loss'] == name
    else:
      assert cfg['methods'][name]['loss'] == name
