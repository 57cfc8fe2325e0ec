"""The main job at a size of seconds: what it writes, skips and refuses."""

import csv
import re
import shutil

import commands
import pytest
from runs import setup_of, train_arm

from align_jax.files import read_jsonl
from align_jax.lab import effects, overrides, protocol, schedule, steps, sweep
from configs import base, toy
from experiments import command, common, online_vs_offline, pages


@pytest.fixture(scope='session')
def cfg():
  return common.as_dict(base.smoke(toy.get_config()))


def train(cfg, workdir):
  common.experiment(
    online_vs_offline.runs, online_vs_offline.report, cfg, workdir
  )


@pytest.fixture(scope='session')
def workdir(cfg, tmp_path_factory):
  """A finished toy experiment, trained in this process."""
  path = tmp_path_factory.mktemp('toy')
  steps._train_steps.clear()
  train(cfg, path)
  return path


def points(workdir):
  return read_jsonl(workdir / 'points.jsonl')


def of_policies(workdir):
  """Without those of the reference's samples, reweighed."""
  return pages.trained(points(workdir))


def test_a_train_step_for_each_loss_and_no_more(workdir):
  programs = steps._train_steps
  assert sorted(key[1] for key in programs) == ['bradley_terry', 'ipo', 'sft']


def test_arms_of_several_machines_meet_in_one_workdir(workdir, cfg, tmp_path):
  """As launch/README.md has it: a workdir for each, then all in one."""
  arms = 'online', 'offline'
  for arm in arms:
    experiment = online_vs_offline.runs, online_vs_offline.report, cfg
    common.experiment(*experiment, tmp_path / arm, only=[arm])
    shutil.copytree(tmp_path / arm, tmp_path / 'all', dirs_exist_ok=True)
  common.experiment(*experiment, tmp_path / 'all', report_only=True)
  together = [p for p in points(workdir) if p['arm'] in arms]
  assert {p['arm'] for p in together} == set(arms)
  assert points(tmp_path / 'all') == together


def test_the_page_is_one_file_that_needs_no_network(workdir):
  page = (workdir / 'report.html').read_text()
  drawn = list((workdir / 'figures').glob('*.png'))
  assert page.count('role="img"') == 2 * len(drawn)  # for a desk, for a phone
  assert 'src=' not in page and not re.search(r'href="\w+:', page)
  assert 'At equal KL from the reference' in page or 'No verdict' in page


def test_figures_table_and_points_stand_beside_the_page(workdir, cfg):
  for name in ('gold_vs_kl', 'gold_vs_proxy', 'training'):
    assert (workdir / 'figures' / f'{name}.png').stat().st_size > 1000
  with (workdir / 'table.csv').open() as file:
    header, *rows = csv.reader(file)
  assert header[1 : 1 + len(cfg['arms'])] == list(cfg['arms'])
  assert len(rows) == len(cfg['report']['budgets'])


def test_every_run_has_its_points(workdir, cfg):
  runs = {(p['arm'], p['configuration'], p['seed']) for p in points(workdir)}
  assert len(runs) == len(sweep.sweep(cfg))
  assert {p['step'] for p in of_policies(workdir)} == {0, 2, 3, 6}


def test_the_reference_is_at_exactly_no_distance(workdir):
  start = [p for p in points(workdir) if p['step'] == 0]
  assert {p['kl_seq_nats'] for p in start} == {0.0}
  moved = [p for p in of_policies(workdir) if p['step'] == 6]
  assert all(p['kl_seq_nats'] > 0 for p in moved)


def test_runs_of_a_seed_are_measured_alike_and_seeds_are_not(workdir):
  start = {}
  for p in of_policies(workdir):
    if p['step'] == 0:
      start.setdefault(p['seed'], set()).add(p['gold'])
  assert [len(gold) for gold in start.values()] == [1, 1]
  assert start[0] != start[1]


def test_arms_differ_in_what_they_compare(workdir):
  policies = of_policies(workdir)
  last = {(p['arm'], p['seed']): p for p in policies if p['step'] == 6}
  assert len({p['kl_seq_nats'] for p in last.values()}) == len(last)


def test_finished_runs_are_not_trained_again(workdir, cfg, monkeypatch):
  monkeypatch.setattr(protocol, 'run_arm', lambda *_, **__: pytest.fail())
  before = points(workdir)
  train(cfg, workdir)
  assert points(workdir) == before


def replayed(cfg):
  """Names of a run of `shuffled`, and of the run whose log it replays."""
  name = next(r.name for r in sweep.sweep(cfg) if r.arm == 'shuffled')
  return name, cfg['arms']['shuffled']['log_of']


def test_only_trains_an_arm_and_the_log_it_replays(cfg):
  names = {r.name for r in common.select(sweep.sweep(cfg), ['shuffled'])}
  assert names == set(replayed(cfg))


def test_a_job_waits_for_the_log_it_replays(cfg, tmp_path):
  jobs = common.jobs_of(cfg, sweep.sweep(cfg), tmp_path)
  todo = {job.name: job for job in jobs}
  name, log = replayed(cfg)
  assert todo[f'seed1/{name}'].needs == ('seed1', f'seed1/{log}')


def first_runs(cfg, workdir):
  todo = common.jobs_of(cfg, sweep.sweep(cfg), workdir)
  first = schedule.rehearsals(todo, common.train_runs)
  return [job.args[1] for job in first]


def test_what_others_wait_for_is_rehearsed(cfg, tmp_path):
  [[run]] = first_runs(cfg, tmp_path)
  assert (run.name, run.seed) == (replayed(cfg)[1], 0)


def test_what_waits_for_others_is_not_rehearsed(cfg, tmp_path):
  arms = {'best': dict(reweigh='best_of_n'), 'file': dict(source='file_pairs')}
  assert not first_runs({**cfg, 'arms': arms}, tmp_path)


def test_a_rehearsal_compiles_for_the_run_and_leaves_no_trace(
  workdir, cfg, tmp_path
):
  steps._train_steps.clear()
  [[run]] = first_runs(cfg, tmp_path)
  protocol.rehearse(setup_of(cfg, tmp_path), [run])
  assert not list(tmp_path.iterdir())
  programs = {key[1]: step for key, step in steps._train_steps.items()}
  assert programs.keys() == {'bradley_terry', 'ipo', 'sft'}
  train_arm(cfg, run, tmp_path)
  assert programs['ipo'].program._cache_size() == 1
  directory = run.directory(tmp_path)
  plain = run.directory(workdir)
  names = ('points.jsonl', 'metrics.jsonl')
  for name in names:
    assert (directory / name).read_text() == (plain / name).read_text()


def test_a_rehearsal_that_fails_is_noted_and_stops_nothing(
  cfg, tmp_path, capsys
):
  [[run]] = first_runs(cfg, tmp_path)
  setup = setup_of(cfg, tmp_path)
  schedule.rehearse(setup, [run.but(labels='nobody')], None)
  note = f'note: {run.name} was not rehearsed: error:'
  error = capsys.readouterr().err
  assert note in error and 'nobody' in error


def test_another_setting_in_the_same_workdir_is_refused(workdir, cfg):
  other = {**cfg, 'sft': {**cfg['sft'], 'learning_rate': 0.5}}
  rate = cfg['sft']['learning_rate']
  with pytest.raises(ValueError, match=f'sft.learning_rate={rate}.*has 0.5'):
    common.execute(other, sweep.sweep(other), workdir)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (dict(loss='dop'), "arms.online.loss='dop', expected one of .*'dpo'"),
    (dict(labels='critic'), "arms.online.labels='critic' is none of"),
    (dict(source='internet'), "arms.online.source='internet' is none of"),
    (dict(group_size=1), 'group_size=1.* needs at least 2'),
    (dict(loss_kwargs=dict(gamma=1)), 'loss_kwargs.gamma is none of'),
    (dict(source='log', log_of='x/y'), "log_of='x/y' is none of the runs"),
    (dict(stepz=1), "arms.online.stepz: no such field, .* mean 'steps'"),
  ],
)
def test_a_wrong_arm_is_refused_at_start(cfg, change, message):
  fields = {**cfg['arms']['online'], 'sweep': ({},), **change}
  wrong = {**cfg, 'arms': {**cfg['arms'], 'online': fields}}
  with pytest.raises(ValueError, match=message):
    common.check(wrong, sweep.sweep(wrong))


def check_overrides(cfg, *given):
  """As the command line does."""
  changed = overrides.apply(cfg, given)
  told = [command.Override(*one, cfg, list(given)) for one in given]
  effects.check(online_vs_offline.runs, changed, told)


def test_an_override_that_reaches_no_run_is_refused(cfg):
  for path, text, message in (
    ('arm.source', 'mixed', 'shadowed: arms.offline, .* more set source'),
    ('arm.loss_kwargs.gamma', '2', 'shadowed: .*arms.online'),
    ('arm.mixture', '0.5', 'no effect: no run reads mixture'),
    ('proxy.variance_weight', '2', 'no effect: .* members=1'),
  ):
    with pytest.raises(ValueError, match=message):
      check_overrides(cfg, (path, text))


def reported(workdir, cfg, folder):
  """Reports on a copy of a workdir that has changed."""
  runs = online_vs_offline.runs, online_vs_offline.report
  common.experiment(*runs, cfg, folder, report_only=True)
  return points(folder)


@pytest.mark.parametrize(
  ('group', 'field', 'value', 'words'),
  [
    ('sft', 'steps', 7, 'sft.steps=4, this one has 7'),
    ('task', 'peak_shift', 0.1, 'task.peak_shift=.*, this one has 0.1'),
    ('arm', 'kl_budget', 0.5, 'kl_budget=0.0, this one has 0.5'),
    ('arm', 'batch_size', 8, 'batch_size=4, this one has 8'),
  ],
)
def test_a_report_is_of_the_settings_of_the_runs(
  workdir, cfg, group, field, value, words
):
  other = {**cfg, group: {**cfg[group], field: value}}
  other['arm'] = {**other['arm'], 'kl_every': 2}  # which nothing reads
  before = (workdir / 'report.html').read_bytes()
  with pytest.raises(ValueError, match=words):
    reported(workdir, other, workdir)
  assert (workdir / 'report.html').read_bytes() == before


def test_a_seed_that_an_arm_lacks_is_not_in_the_report(
  workdir, cfg, tmp_path, capsys
):
  folder = shutil.copytree(workdir, tmp_path / 'copy')
  [done] = folder.glob('seed1/offline/*/done.json')
  done.unlink()
  found = reported(workdir, cfg, folder)
  assert found == [p for p in points(workdir) if p['seed'] == 0]
  told = 'note: seed 1 is not in the report: offline/'
  assert told in ''.join(capsys.readouterr())


def test_a_page_needs_no_record_of_the_proxy(workdir, cfg, tmp_path, capsys):
  folder = shutil.copytree(workdir, tmp_path / 'copy')
  (folder / 'seed0' / 'proxy.json').write_text('{"held_out": 1')
  (folder / 'seed1' / 'proxy.json').unlink()
  assert reported(workdir, cfg, folder) == points(workdir)
  text = ''.join(capsys.readouterr())
  assert text.count('proxy.json: gone or damaged') == 2


def test_part_of_a_group_may_be_overridden(cfg):
  for path, text in (
    ('arm.sampling', "{'temperature': 0.7}"),
    ('arm.lora', "{'rank': 2}"),
    ('arm.keep.steps', '(3,)'),
  ):
    check_overrides(cfg, (path, text))


MISTAKES = [
  (['--config.sft.step=3'], 'step'),
  (['--only=onlin'], '--only=onlin: no such arm; arms are offline'),
  (['--config.proxy.verifier=tree'], "proxy.verifier='tree' is none of"),
  (['--report'], 'holds no finished run'),
  (['--report', '--host=1'], '--host=1: --report runs on one host'),
]


@pytest.fixture(scope='module')
def mistaken(tmp_path_factory):
  """What each of the command lines came to."""
  workdir, errors = map(tmp_path_factory.mktemp, ('mistaken', 'errors'))
  given = ['--config=configs/toy.py', f'--workdir={workdir}']
  lines = [[*given, *args] for args, _ in MISTAKES]
  return commands.ended('experiments.online_vs_offline', lines, errors)


@pytest.mark.parametrize(
  'number', range(len(MISTAKES)), ids=[words for _, words in MISTAKES]
)
def test_the_command_line_answers_a_mistake_in_one_line(number, mistaken):
  assert mistaken[number].status == 1
  error = mistaken[number].errors.strip().splitlines()
  assert len(error) == 1 and error[0].startswith('error: ')
  assert MISTAKES[number][1] in error[0]
