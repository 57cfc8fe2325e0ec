"""Scripts of launch/ on made-up machines: what they install, and how."""

import pathlib
import shutil
import subprocess
import sys

import pytest
import yaml
from shell import LAUNCH, ROOT, bash, command

SCRIPTS = sorted([*LAUNCH.glob('*.sh'), ROOT / '.ci' / 'run'])


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda p: p.name)
def test_shellcheck_has_no_complaint(script):
  beside = pathlib.Path(sys.executable).with_name('shellcheck')
  found = shutil.which('shellcheck') or shutil.which(beside)
  if not found:
    pytest.skip('needs shellcheck')
  done = subprocess.run([found, script], capture_output=True, text=True)
  assert done.returncode == 0, done.stdout


# A Python for .venv --------------------------------------------------------

OLD = """
case "$*" in
  *version_info*) exit 1 ;;
  --version) echo 'Python 3.10.12' ;;
  '-m pip install'*) {pip} ;;
  '-m venv .uv') {venv} ;;
  *) exit 1 ;;
esac
"""
UV = 'mkdir -p .uv/bin && echo "echo uv \\"\\$@\\"" >.uv/bin/uv'
UV = f'{UV} && chmod +x .uv/bin/uv'
VENV_PIP = f"mkdir -p .uv/bin && echo '{UV}' >.uv/bin/python"
VENV_PIP = f'{VENV_PIP} && sed -i 1i#!/bin/bash .uv/bin/python'
VENV_PIP = f'{VENV_PIP} && chmod +x .uv/bin/python'
NAMES = 'python3', 'python', 'python3.11', 'python3.12', 'python3.13'


def make_venv(folder, python, **env):
  """`make_venv .venv` where every Python is this one, and there is no uv."""
  for name in NAMES:
    command(folder / 'bin', name, python)
  code = (
    f'command() {{ [[ $2 != uv ]] && builtin command "$@"; }}; '
    f'source {LAUNCH}/python.sh; make_venv .venv'
  )
  return bash('-c', code, path=[folder / 'bin'], cwd=folder, **env)


MADE = 'uv venv --quiet --seed --allow-existing --python 3.12 .venv'


def test_uv_comes_by_pip_and_brings_a_python(tmp_path):
  done = make_venv(tmp_path, OLD.format(pip=UV, venv='exit 1'))
  assert (done.returncode, done.stdout.strip()) == (0, MADE), done.stderr


def test_uv_comes_by_venv_where_there_is_no_pip(tmp_path):
  done = make_venv(tmp_path, OLD.format(pip='exit 1', venv=VENV_PIP))
  assert (done.returncode, done.stdout.strip()) == (0, MADE), done.stderr


def test_without_pip_and_venv_the_error_says_what_to_install(tmp_path):
  done = make_venv(tmp_path, OLD.format(pip='exit 1', venv='exit 1'))
  assert done.returncode == 1
  assert done.stderr.splitlines()[-1].startswith('error: found no Python 3.11')


def test_a_new_python_makes_it_by_itself(tmp_path):
  python = '[[ $* == *version_info* ]] || echo "$@"'
  done = make_venv(tmp_path, python)
  assert (done.returncode, done.stdout.strip()) == (0, '-m venv .venv')


def test_a_new_python_without_venv_is_given_to_uv(tmp_path):
  """As Debian has it."""
  python = OLD.format(pip=UV, venv='exit 1').replace(
    'exit 1 ;;', 'exit 0 ;;', 1
  )
  done = make_venv(tmp_path, python)
  assert done.stdout.strip() == MADE.replace('3.12', 'python3'), done.stderr


def test_an_old_python_that_was_chosen_is_an_error(tmp_path):
  old = command(tmp_path / 'old', 'python', OLD) / 'python'
  done = make_venv(tmp_path, OLD.format(pip=UV, venv=''), PYTHON=str(old))
  assert done.returncode == 1
  assert done.stderr.startswith(f'error: PYTHON={old} is no Python 3.11')
  assert 'Python 3.10.12' in done.stderr


def test_setup_installs_what_the_machine_needs_once(tmp_path):
  """A fresh folder, and a Python that notes what pip is asked for."""
  copy = tmp_path / 'copy'
  for name in 'launch', 'requirements':
    shutil.copytree(ROOT / name, copy / name)
  shutil.copy(ROOT / 'requirements.txt', copy)
  python = """
  if [[ $* == '-m venv'* ]]; then
    mkdir -p .venv/bin && cp "$0" .venv/bin/python
  elif [[ $* == *pip* ]]; then
    echo "$@" >>asked
  elif [[ $2 == *hardware ]]; then
    cat hardware
  fi
  """
  fake = command(tmp_path / 'bin', 'python3', python)

  def setup(hardware):
    (copy / 'hardware').write_text(f'{hardware}\n')
    done = bash('launch/setup.sh', path=[fake], cwd=copy)
    assert done.returncode == 0, done.stderr
    return [x.split()[-1] for x in (copy / 'asked').read_text().splitlines()]

  assert setup('jax[tpu]') == ['jax[tpu]']
  assert setup('jax[tpu]') == ['jax[tpu]']
  assert setup('jax[cuda12]') == ['jax[tpu]', 'jax[cuda12]']


def test_an_unknown_environment_is_an_error(tmp_path):
  fake = command(tmp_path / 'bin', 'uv', '')
  done = bash(LAUNCH / 'environments.sh', 'jax-0.11', path=[fake])
  assert done.returncode == 1
  assert (
    done.stderr == 'error: jax-0.11: expected colab, jax-0.10 or jax-0.12\n'
  )


def test_an_unknown_first_run_is_an_error():
  done = bash(LAUNCH / 'first_runs.sh', 'kaggle')
  assert done.returncode == 1
  assert done.stderr == "error: 'kaggle': expected colab or bare\n"


@pytest.mark.parametrize(
  'end, status',
  [
    ('echo done; exit 0', 0),
    ('echo "error: batch_size=0" >&2; exit 1', 1),
    ('echo "stopped: SIGTERM" >&2; exit 0', 143),  # as one of several hosts
    ('echo "stopped: SIGTERM" >&2; exit 143', 143),
  ],
)
def test_skypilot_starts_again_what_was_asked_to_stop(end, status, tmp_path):
  """It takes status 0 for the end of the job."""
  job = yaml.safe_load((LAUNCH / 'sky.yaml').read_text())
  assert job['resources']['job_recovery'] == {'recover_on_exit_codes': [143]}
  (tmp_path / 'launch').mkdir()
  (tmp_path / 'launch' / 'setup.sh').write_text('')
  command(tmp_path / '.venv', 'made', '')
  command(tmp_path / '.venv' / 'bin', 'python', end)
  (tmp_path / 'run.sh').write_text(job['run'])
  given = {k: v or 'gs://bucket/run' for k, v in job['envs'].items()}
  done = bash('run.sh', cwd=tmp_path, **given)
  assert done.returncode == status
  assert any(word in done.stdout for word in ('done', 'error', 'stopped'))


def test_skypilot_reads_the_job():
  task = yaml.safe_load((LAUNCH / 'sky.yaml').read_text())
  sky = pytest.importorskip('sky', exc_type=ImportError)
  with pytest.raises(ValueError, match='WORKDIR'):
    sky.Task.from_yaml_config(task)
  given = [('WORKDIR', 'gs://bucket/toy')]
  job = sky.Task.from_yaml_config(task, env_overrides=given)
  (machine,) = job.resources
  assert machine.use_spot and machine.accelerators == {'tpu-v5litepod-8': 1}
  assert job.envs['WORKDIR'] == 'gs://bucket/toy'
