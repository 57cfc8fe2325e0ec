"""The scripts of launch/, on a cloud and machines that are made up."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / 'launch'
SCRIPTS = sorted([*LAUNCH.glob('*.sh'), ROOT / '.ci' / 'run'])
GIT = ['git', '-c', 'user.name=a', '-c', 'user.email=a@b']


def bash(*words, path=(), cwd=ROOT, **env):
  """Runs bash with these folders before PATH."""
  path = os.pathsep.join([*map(str, path), os.environ['PATH']])
  return subprocess.run(
    ['bash', *map(str, words)],
    cwd=cwd,
    env={**os.environ, 'PATH': path, **env},
    capture_output=True,
    text=True,
    timeout=120,
  )


def command(folder, name, text):
  """A command of PATH."""
  folder.mkdir(exist_ok=True)
  (folder / name).write_text(f'#!/bin/bash\n{text}\n')
  (folder / name).chmod(0o755)
  return folder


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
  elif [[ $1 == *hardware.py ]]; then
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


# Cloud TPUs ------------------------------------------------------------------

ZONE, WORKDIR = '--zone=us-west4-a', '--workdir=gs://bucket/toy'
TAIL = '--', 'online_vs_offline', '--config=configs/toy.py'


def tpu_vm(*words, **options):
  return bash('launch/tpu_vm.sh', *words, **options)


QUEUED = 'gcloud compute tpus queued-resources'
TPU = f"""git bundle create --quiet FILE HEAD
gcloud storage cp FILE gs://bucket/toy.bundle
CREATE
{QUEUED} list --zone=us-west4-a
gcloud compute tpus tpu-vm ssh toy --zone=us-west4-a --worker=all
gcloud compute tpus tpu-vm ssh toy --zone=us-west4-a --worker=all
{QUEUED} list --zone=us-west4-a
gcloud compute tpus tpu-vm ssh toy --zone=us-west4-a --worker=0
gcloud compute tpus tpu-vm ssh toy --zone=us-west4-a --worker=all
mkdir -p runs/toy
gcloud storage rsync --recursive
{QUEUED} delete toy --zone=us-west4-a --force --quiet"""
FLEX = '--provisioning-model=flex-start', '--max-run-duration=4h'
CREATED = {
  'v5litepod-8': ('', QUEUED, ['--runtime-version=v2-alpha-tpuv5-lite']),
  'v5p-8': ('', QUEUED, ['--runtime-version=v2-alpha-tpuv5 ']),
  'v4-8': ('--spot', QUEUED, ['=tpu-ubuntu2204-base', '--spot']),
  'v6e-16': (
    '--flex-start=4h',
    QUEUED.replace('gcloud', 'gcloud alpha'),
    ['--runtime-version=v2-alpha-tpuv6e', *FLEX],
  ),
}


@pytest.mark.parametrize('kind', CREATED)
def test_a_dry_run_prints_all_commands_and_runs_none(tmp_path, kind):
  terms, created, flags = CREATED[kind]
  fake = command(tmp_path / 'bin', 'gcloud', f'touch {tmp_path}/ran')
  words = [f'--type={kind}', ZONE, WORKDIR, *terms.split(), '--dry-run', *TAIL]
  done = tpu_vm('toy', *words, path=[fake])
  assert done.returncode == 0 and done.stdout == ''
  assert not (tmp_path / 'ran').exists()
  lines = done.stderr.splitlines()
  wanted = TPU.replace('CREATE', f'{created} create toy').splitlines()
  assert len(lines) == len(wanted)
  for line, start in zip(lines, wanted):
    line = re.sub(r'/\S*/tmp\.\S+', 'FILE', line)
    assert line.startswith(start), line
  assert f'--accelerator-type={kind} ' in lines[2]
  assert all(flag in f'{lines[2]} ' for flag in flags)
  assert ('--spot' in lines[2]) == (terms == '--spot')
  for word in (*TAIL[1:], WORKDIR):
    assert word in lines[5]


@pytest.mark.parametrize('topology, hosts', [('2x2x1', 1), ('2x2x4', 4)])
@pytest.mark.parametrize(
  'terms, model',
  [('', 'STANDARD'), ('--spot', 'SPOT'), ('--flex-start=4h', 'FLEX_START')],
)
def test_compute_engine_provides_the_seventh_generation(
  tmp_path, topology, hosts, terms, model
):
  fake = command(tmp_path / 'bin', 'gcloud', f'touch {tmp_path}/ran')
  words = [f'--type=tpu7x-{topology}', ZONE, WORKDIR, *terms.split()]
  done = tpu_vm('toy', *words, '--dry-run', *TAIL, path=[fake])
  assert done.returncode == 0 and not (tmp_path / 'ran').exists()
  text = done.stderr
  assert f'--provisioning-model={model}' in text
  assert ('--max-run-duration=4h' in text) == (model == 'FLEX_START')
  assert f'managed create toy {ZONE} --template=toy --size={hosts} ' in text
  assert text.count(f'--accelerator-topology={topology} ') == (hosts > 1)
  policy = 'projects/PROJECT/regions/us-west4/resourcePolicies/toy'
  assert (f'--workload-policy={policy}' in text) == (hosts > 1)
  made = re.findall(r'^gcloud compute (\S+)(?: managed)? create', text, re.M)
  dropped = re.findall(r'^gcloud compute (\S+)(?: managed)? delete', text, re.M)
  assert sorted(made) == sorted(dropped) and len(made) == 2 + (hosts > 1)


MISTAKES = {
  "'': expected a name": [''],
  "'Toy': expected a name": ['Toy'],
  '--type is required': ['toy', ZONE, WORKDIR, *TAIL],
  '--zone is required': ['toy', '--type=v4-8', WORKDIR, *TAIL],
  '--workdir is required': ['toy', '--type=v4-8', ZONE, *TAIL],
  '--workdir=runs: expected': ['toy', '--workdir=runs', *TAIL],
  '--preemptible: expected': ['toy', '--preemptible', *TAIL],
  '--type=h100: expected': ['toy', '--type=h100', ZONE, WORKDIR, *TAIL],
  'expected -- EXPERIMENT': ['toy', '--type=v4-8', ZONE, WORKDIR],
  'nothing: no such file': [
    'toy',
    '--type=v4-8',
    ZONE,
    WORKDIR,
    '--',
    'nothing',
  ],
}


@pytest.mark.parametrize('error', MISTAKES)
def test_a_mistake_is_one_line(tmp_path, error):
  fake = command(tmp_path / 'bin', 'gcloud', f'touch {tmp_path}/ran')
  done = tpu_vm(*MISTAKES[error], path=[fake])
  assert done.returncode == 1 and not (tmp_path / 'ran').exists()
  assert done.stderr.startswith(f'error: {error}')
  assert done.stderr.count('\n') == 1


# One VM whose home is $CLOUD/vm, and a bucket in $CLOUD/bucket.
GCLOUD = r"""
echo "$@" >>"$CLOUD/calls"
last=${!#}
case "$*" in
  *' create '*) mkdir "$CLOUD/vm" && echo ACTIVE >"$CLOUD/state" ;;
  *' list '*) cat "$CLOUD/state" 2>/dev/null || true ;;
  *' delete '*) rm -r "$CLOUD/vm" "$CLOUD/state" ;;
  *' ssh '*)
    [[ $(cat "$CLOUD/state") == ACTIVE ]] || exit 255
    cd "$CLOUD/vm" && bash -c "${last#--command=}"
    ;;
  'storage cp '*) cp "${3/gs:\/\//$CLOUD/}" "${4/gs:\/\//$CLOUD/}" ;;
  'storage rsync '*) cp -r "$CLOUD/bucket/toy/." "$last" ;;
esac
"""
# It does what the next line of $CLOUD/plan says.
SHORT = """
import os, pathlib, sys
cloud = pathlib.Path(os.environ['CLOUD'])
what, *rest = (cloud / 'plan').read_text().split()
(cloud / 'plan').write_text(' '.join(rest))
workdir = cloud / sys.argv[-1].removeprefix('--workdir=gs://')
workdir.mkdir(exist_ok=True)
with (workdir / 'steps').open('a') as file:
  file.write(f'{what} {sys.argv[1]}\\n')
print('this run will', what)
if what == 'taken':  # as all hosts of a slice do
  (cloud / 'state').write_text('SUSPENDED')
  print('stopped: SIGTERM', file=sys.stderr)
elif what == 'stopped':
  print('stopped: SIGTERM', file=sys.stderr)
  sys.exit(143)
elif what == 'failed':
  sys.exit('error: batch_size=0')
"""
SETUP = f"""
mkdir -p .venv/bin
ln -sf {sys.executable} .venv/bin/python
"""


@pytest.fixture
def cloud(tmp_path):
  """A repository with launch/tpu_vm.sh, and a cloud to run it in."""
  repository, home = tmp_path / 'repository', tmp_path / 'cloud'
  for folder in repository / 'launch', repository / 'experiments':
    folder.mkdir(parents=True)
  (home / 'bucket').mkdir(parents=True)
  for name in 'tpu_vm.sh', 'worker.sh':
    shutil.copy(LAUNCH / name, repository / 'launch')
  (repository / 'launch' / 'setup.sh').write_text(SETUP)
  (repository / 'experiments' / 'short.py').write_text(SHORT)
  (repository / '.gitignore').write_text('runs/\n')
  for words in ['init', '-q'], ['add', '.'], ['commit', '-qm', 'Begin']:
    subprocess.run([*GIT, *words], cwd=repository, check=True)
  command(tmp_path / 'bin', 'gcloud', GCLOUD)
  command(tmp_path / 'bin', 'sleep', '/bin/sleep 0.1')

  def launch(plan):
    (home / 'plan').write_text(plan)
    words = '--type=v4-8', ZONE, WORKDIR, '--spot', '--', 'short', '--seeds=1 2'
    paths = dict(path=[tmp_path / 'bin'], cwd=repository)
    return tpu_vm('toy', *words, CLOUD=str(home), **paths)

  launch.home, launch.repository = home, repository
  return launch


def calls(cloud, verb):
  text = (cloud.home / 'calls').read_text()
  return len(re.findall(rf' {verb} ', text))


def test_a_run_goes_on_until_it_is_done(cloud):
  """A slice that was taken away is made anew; a process is started again."""
  done = cloud('taken stopped done')
  assert done.returncode == 0, done.stderr
  for what in 'taken', 'stopped', 'done':
    assert f'this run will {what}' in done.stdout
  steps = cloud.repository / 'runs' / 'toy' / 'steps'
  wanted = ''.join(f'{x} --seeds=1 2\n' for x in ('taken', 'stopped', 'done'))
  assert steps.read_text() == wanted
  assert (calls(cloud, 'create'), calls(cloud, 'delete')) == (2, 2)
  assert not (cloud.home / 'vm').exists()


def test_a_run_that_fails_ends_and_leaves_nothing(cloud):
  done = cloud('failed')
  assert done.returncode == 1
  assert 'error: batch_size=0' in done.stdout
  assert 'error: short failed; see above' in done.stderr
  assert (calls(cloud, 'create'), calls(cloud, 'delete')) == (1, 1)
  assert not (cloud.home / 'vm').exists()


def test_what_is_there_already_is_not_touched(cloud):
  (cloud.home / 'state').write_text('ACTIVE')
  done = cloud('done')
  assert done.returncode == 1
  assert done.stderr == 'error: there is a toy already\n'
  assert calls(cloud, 'list') == 1 and not calls(cloud, 'delete')


def test_uncommitted_changes_are_refused(cloud):
  (cloud.repository / 'new').touch()
  done = cloud('done')
  assert done.returncode == 1 and not calls(cloud, 'create')
  assert done.stderr.startswith(
    'error: there are changes that are not committed'
  )
