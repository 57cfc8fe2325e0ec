"""All studies by one command: what is run, and the site of their verdicts."""

import contextlib
import pathlib
import shutil
import types

import numpy as np
import pytest

from align_jax.files import write_record
from align_jax.lab import lock
from configs import toy
from experiments import claims, registration, reproduce, site
from experiments import study as study_lib
from experiments.suite import studies
from tests import browser, commands, made_points, suite_points

CFG = {**toy.get_config().to_dict(), 'seeds': suite_points.SEEDS}
STUDY = studies()['E3']


def test_every_study_may_be_on_the_site(tmp_path):
  for key, study in studies().items():
    folder = tmp_path / 'toy' / key
    evidence = claims.Evidence([], CFG, folder)
    missing = claims.Claim('x', 'So.', 'a paper', 'x', claims.Gap('a', 'b'))
    ruling = study_lib.entry(claims.rule(missing, evidence))
    write_record(folder / study_lib.NAME, {'verdicts': [ruling], 'seconds': 60})
  reproduce.note(tmp_path / 'toy')
  site.write(tmp_path, studies())
  text = (tmp_path / 'RESULTS.md').read_text()
  assert all(f'| {key} | no verdict | So. |' in text for key in studies())


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A workdir with one study, of made-up points."""
  root = tmp_path_factory.mktemp('claims')
  folder = made_points.fill(root / 'toy' / 'E3')
  registration.register(CFG, folder, STUDY.rules)
  reproduce.note(root / 'toy')
  of = lambda quality: np.full(suite_points.SEEDS, quality)
  qualities = {name: of(1.0) for name in STUDY.arms(CFG)}
  qualities |= {'online+gold': of(3.0), 'offline': of(2.0)}
  STUDY.report(suite_points.runs_of(qualities), CFG, folder)
  site.write(root, studies())
  return root


def test_the_table_has_every_verdict(workdir):
  text = (workdir / 'RESULTS.md').read_text()
  rows = [x.split(' | ') for x in text.splitlines() if x.startswith('| E3')]
  assert [row[1] for row in rows] == [
    'opposite',
    'not reproduced',
    'reproduced',
    'opposite',
  ]
  assert '1 reproduced, 1 not reproduced, 2 opposite.' in text


def test_what_was_registered_is_told():
  study = lambda key: types.SimpleNamespace(key=key)
  record = lambda time, *changed: {
    'registered': {'time': time, 'changed': changed}
  }
  told = site.standing(
    [
      (study('A'), record('today')),
      (study('B'), record('today', 'the code of the rules has changed')),
      (study('C'), record('', 'nothing was registered before the first run')),
      (study('D'), {}),
      (study('E'), record('today')),
    ]
  )
  assert told == [
    'As registered before the first run: A, E',
    'Changed since it was registered (the code of the rules has changed): B',
    'Not registered before the first run: C',
    'Registration not noted: D',
  ]


def test_every_command_is_told_once(tmp_path, monkeypatch):
  for line in ('first', 'second', 'first'):
    monkeypatch.setattr(reproduce.command, 'command', lambda: line)
    reproduce.note(tmp_path / 'toy')
  site.write(tmp_path, studies())
  text = (tmp_path / 'RESULTS.md').read_text()
  assert text.count('    first\n') == text.count('    second\n') == 1


def test_a_workdir_of_an_earlier_version_goes_on(tmp_path, monkeypatch):
  old = dict.fromkeys(('commit', 'machine', 'versions', 'date'), 'old')
  record = {**old, 'commands': ['first', 'second'], 'seeds': 6}
  write_record(tmp_path / 'toy' / site.REPRODUCED, record)
  monkeypatch.setattr(reproduce.command, 'command', lambda: 'third')
  reproduce.note(tmp_path / 'toy')
  site.write(tmp_path, studies())
  text = (tmp_path / 'RESULTS.md').read_text()
  for line in ('first', 'second', 'third'):
    assert text.count(f'    {line}\n') == 1
  assert text.count('old, commit old; old; old.') == 1
  assert text.count('not noted, commit not noted') == 1


def test_the_same_records_give_the_same_bytes(workdir):
  names = 'RESULTS.md', 'index.html'
  before = [(workdir / name).read_bytes() for name in names]
  site.write(workdir, studies())
  assert before == [(workdir / name).read_bytes() for name in names]


def test_the_stated_results_are_those_of_their_records(tmp_path):
  stated = pathlib.Path(__file__).parents[1] / 'docs' / 'claims'
  shutil.copytree(stated, tmp_path, dirs_exist_ok=True)
  site.write(tmp_path, studies())
  read = lambda folder: (folder / 'RESULTS.md').read_text('utf-8')
  assert read(tmp_path) == read(stated)


def test_pages_open_without_errors_and_lead_on(workdir):
  index, errors = browser.opened(workdir / 'index.html')
  assert not errors
  leads = browser.links(index)
  assert leads and all((workdir / link).exists() for link in leads)
  page, errors = browser.opened(workdir / leads[0])
  assert not errors and '<svg' in page and 'amplification' in page
  beside = browser.links(page)
  assert beside and all(
    (workdir / leads[0]).parent.joinpath(x).exists() for x in beside
  )


def test_a_study_is_found_by_its_key(tmp_path):
  [part] = reproduce.parts_of(CFG, tmp_path, ['E3'])
  assert part.folder == tmp_path / 'E3' and part.runs
  with pytest.raises(ValueError, match="--only=E33: no such study.*'E3'"):
    reproduce.parts_of(CFG, tmp_path, ['E33'])


def test_what_a_config_cannot_serve_is_told(tmp_path, capsys):
  cfg = {**CFG, 'arms': {}}
  with pytest.raises(ValueError, match='E3: '):
    reproduce.parts_of(cfg, tmp_path, ['E3'])
  parts = reproduce.parts_of(cfg, tmp_path, [])
  assert 'E3' not in [part.study.key for part in parts]
  assert 'E3 is left out' in capsys.readouterr().err


MISTAKES = [
  (['--num_hosts=2'], '--num_hosts=2: studies run on one host'),
  (
    ['--only=E9', '--config.arms.online.beta=0.3'],
    '--config.arms.online.beta=0.3: no run of this experiment',
  ),
  (['--config.sft.warmup_steps=9999'], 'warmup_steps=9999'),
  (['--report'], 'toy holds no finished run to report on'),
  (['--report', '--only=E9'], 'toy holds no finished run to report on'),
  (['--config.mesh.data=3'], 'mesh'),
  (
    ['--only=E8', '--config.golden.label_noise=0.2'],
    'no run of this experiment is made from config.golden.label_noise',
  ),
  (
    ['--only=E8', '--config.report.budgets=(0.5,1.0)'],
    'this experiment has a report of its own',
  ),
  (
    ['--only=E18', '--config.task.old_prompts=50'],
    'no run of this experiment is made from config.task.old_prompts',
  ),
]


@pytest.fixture(scope='module')
def mistaken(tmp_path_factory):
  """What each of the command lines came to, and their workdir."""
  workdir = tmp_path_factory.mktemp('mistaken')
  given = ['--config=configs/toy.py', f'--workdir={workdir}']
  lines = [[*given, *flags] for flags, _ in MISTAKES]
  errors = tmp_path_factory.mktemp('errors')
  return commands.ended('experiments.reproduce', lines, errors), workdir


@pytest.mark.parametrize(
  'number', range(len(MISTAKES)), ids=[words for _, words in MISTAKES]
)
def test_what_would_do_nothing_is_refused(number, mistaken):
  done, workdir = mistaken
  assert done[number].status == 1
  assert MISTAKES[number][1] in done[number].errors
  assert not list(workdir.iterdir())


def part_of(folder, key, report):
  study = types.SimpleNamespace(key=key, title=key, report=report)
  return reproduce.Part(study, [], folder / key)


def test_a_study_that_has_no_page_stops_no_other(tmp_path, capsys):
  def fails(*_):
    raise ValueError('no')

  parts = [
    part_of(tmp_path, 'A', fails),
    part_of(tmp_path, 'B', lambda *_: 'x'),
  ]
  assert reproduce.report(CFG, parts) == ['A: no']
  assert 'B. B\nx\n' in capsys.readouterr().out


def test_a_report_adds_no_study_that_was_not_run(tmp_path):
  """Those that need no runs are computed where a page is asked for anew."""
  parts = [part_of(tmp_path, key, lambda *_: 'x') for key in 'AB']
  write_record(tmp_path / 'A' / site.VERDICTS, {})
  told = []
  for part in parts:
    part.study.report = lambda *_, key=part.study.key: told.append(key) or ''
  reproduce.report(CFG, parts, again=True)
  assert told == ['A']
  reproduce.report(CFG, parts)
  assert told == ['A', 'A', 'B']


def test_a_study_that_is_run_by_itself_is_left_alone(tmp_path, monkeypatch):
  part = part_of(tmp_path, 'A', None)
  free = lambda *_: contextlib.nullcontext()
  monkeypatch.setattr(reproduce.common, 'training', free)
  monkeypatch.setattr(
    reproduce.command, 'DEVICE', types.SimpleNamespace(value='')
  )
  monkeypatch.setattr(reproduce.command, 'command', lambda: 'all studies')
  with lock.held(part.folder, 'by itself'):
    with pytest.raises(ValueError, match='A is in use by .*by itself'):
      with reproduce.trained_in(CFG, tmp_path, [part]):
        pass


def test_a_command_that_is_refused_made_no_results(tmp_path, monkeypatch):
  def refused(*_):
    raise ValueError('other settings')

  monkeypatch.setattr(reproduce, 'part_jobs', refused)
  with pytest.raises(ValueError, match='other settings'):
    reproduce.train(CFG, [part_of(tmp_path, 'A', None)], tmp_path)
  assert not list(tmp_path.iterdir())
