"""launch/tpu_vm.sh on a made-up cloud."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from shell import LAUNCH, bash, command, environment

GIT = ['git', '-c', 'user.name=a', '-c', 'user.email=a@b']
ZONE, WORKDIR = '--zone=us-west4-a', '--workdir=gs://bucket/toy'
TAIL = '--', 'online_vs_offline', '--config=configs/toy.py'


def tpu_vm(*words, **options):
  return bash('launch/tpu_vm.sh', *words, **options)


QUEUED = 'gcloud compute tpus queued-resources'
TPU = f"""{QUEUED} list --zone=us-west4-a
git bundle create --quiet FILE HEAD
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
  assert f'--accelerator-type={kind} ' in lines[3]
  assert all(flag in f'{lines[3]} ' for flag in flags)
  assert ('--spot' in lines[3]) == (terms == '--spot')
  for word in (*TAIL[1:], WORKDIR):
    assert word in lines[6]


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


KINDS = ('--type=v4-8', ZONE)
MISTAKES = {
  '--workdir=gs://bucket: expected a folder': ['toy', '--workdir=gs://bucket'],
  '--type=v5p-8: expected one of its kind, after v4-8': [
    'toy',
    '--type=v4-8',
    '--type=v5p-8',
  ],
  '--spot: expected one of its kind, after flex-start': [
    'toy',
    '--flex-start=4h',
    '--spot',
  ],
  **{
    f'--type=tpu7x-{x}: expected': ['toy', f'--type=tpu7x-{x}', ZONE, WORKDIR]
    + list(TAIL)
    for x in ('2x2x2x', 'ax2x2', '3x1x2', '1x1x1', '2x2')
  },
  'common: experiments/common.py is no experiment': [
    'toy',
    *KINDS,
    WORKDIR,
    '--',
    'common',
  ],
  '--config=configs/nope.py: no such file in HEAD': [
    'toy',
    *KINDS,
    WORKDIR,
    '--',
    'online_vs_offline',
    '--config=configs/nope.py',
  ],
  '--workdir=gs://other: expected before --': [
    'toy',
    *KINDS,
    WORKDIR,
    *TAIL,
    '--workdir=gs://other',
  ],
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
  *' create '*)
    mkdir "$CLOUD/vm" || exit
    echo ACTIVE >"$CLOUD/state"
    [[ ! -e $CLOUD/slow ]] || { trap 'exit 1' INT && /bin/sleep 20; }
    ;;
  *' list '*)
    [[ ! -e $CLOUD/silent ]] || exit 1
    cat "$CLOUD/state" 2>/dev/null || true ;;
  *' delete '*)
    [[ ! -e $CLOUD/busy ]] || { rm "$CLOUD/busy" && exit 1; }
    rm -r "$CLOUD/vm" "$CLOUD/state"
    ;;
  *' ssh '*)
    trap 'exit 0' INT # gcloud takes it for itself
    [[ $(cat "$CLOUD/state") == ACTIVE ]] || exit 255
    cd "$CLOUD/vm" && bash -c "${last#--command=}"
    ;;
  'storage cp '*' code')
    file=${3/gs:\/\//$CLOUD/}
    if [[ -e $CLOUD/cut ]]; then
      rm "$CLOUD/cut" && head -c 100 "$file" >code
    else
      cp "$file" code
    fi
    ;;
  'storage cp '*) cp "${3/gs:\/\//$CLOUD/}" "${4/gs:\/\//$CLOUD/}" ;;
  'storage rsync '*) cp -r "$CLOUD/bucket/toy/." "$last" ;;
esac
"""
# It does what the next line of $CLOUD/plan says.
SHORT = """
if __name__ == '__main__':
  pass
import os, pathlib, sys, time
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
elif what == 'wait':
  while (cloud / 'vm').exists():
    time.sleep(0.1)
"""
# What runs in the background of a script ignores Ctrl-C, and so does its child.
AS_IN_A_TERMINAL = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execvp('bash', ['bash', *sys.argv[1:]])
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

  words = '--type=v4-8', ZONE, WORKDIR, '--spot', '--', 'short', '--seeds=1 2'

  def launch(plan):
    (home / 'plan').write_text(plan)
    paths = dict(path=[tmp_path / 'bin'], cwd=repository)
    return tpu_vm('toy', *words, CLOUD=str(home), **paths)

  def begin(plan):
    (home / 'plan').write_text(plan)
    return subprocess.Popen(
      [
        sys.executable,
        '-c',
        AS_IN_A_TERMINAL,
        'launch/tpu_vm.sh',
        'toy',
        *words,
      ],
      cwd=repository,
      env=environment([tmp_path / 'bin'], CLOUD=str(home)),
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )

  launch.home, launch.repository, launch.begin = home, repository, begin
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


@pytest.mark.parametrize('sent', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('when', ['the run', 'create'])
def test_a_signal_leaves_nothing(cloud, sent, when):
  """Ctrl-C gets to all processes of the terminal, gcloud's among them."""
  seen = cloud.home / 'bucket' / 'toy' / 'steps'
  if when == 'create':
    seen = cloud.home / 'state'
    (cloud.home / 'slow').touch()
  running = cloud.begin('wait')
  for _ in range(600):
    if seen.exists():
      break
    time.sleep(0.1)
  time.sleep(0.5)
  os.killpg(running.pid, sent)
  _, told = running.communicate(timeout=60)
  assert running.returncode == 128 + sent, told
  assert calls(cloud, 'delete') == 1 and not (cloud.home / 'vm').exists()


def test_a_slice_that_could_not_be_deleted_is_deleted_later(cloud):
  (cloud.home / 'busy').touch()
  done = cloud('taken done')
  assert done.returncode == 0, done.stderr
  assert (calls(cloud, 'create'), calls(cloud, 'delete')) == (2, 3)


def test_an_experiment_of_the_suite_is_named_as_a_module(tmp_path):
  words = '--type=v4-8', ZONE, WORKDIR, '--dry-run', '--'
  done = tpu_vm('toy', *words, 'suite.e14_semi_online')
  assert done.returncode == 0 and 'suite.e14_semi_online' in done.stderr
  done = tpu_vm('toy', *words, 'suite/e14_semi_online')
  assert done.returncode == 1
  assert done.stderr.startswith('error: suite/e14_semi_online: no such file')


def test_what_is_there_already_is_not_touched(cloud):
  (cloud.home / 'state').write_text('ACTIVE')
  done = cloud('done')
  assert done.returncode == 1
  assert done.stderr == 'error: there is a toy already\n'
  assert calls(cloud, 'list') == 1 and not calls(cloud, 'delete')


def test_what_another_command_made_meanwhile_is_not_deleted(cloud):
  (cloud.home / 'vm').mkdir()
  done = cloud('done')
  assert done.returncode == 1 and 'error: toy was not created' in done.stderr
  assert calls(cloud, 'create') == 1 and not calls(cloud, 'delete')
  assert (cloud.home / 'vm').exists()


def test_without_an_answer_nothing_is_created(cloud):
  (cloud.home / 'silent').touch()
  done = cloud('done')
  assert done.returncode == 1
  assert done.stderr.startswith('error: gcloud does not say what there is')
  assert not calls(cloud, 'create') and not calls(cloud, 'delete')


def test_code_that_came_in_part_is_fetched_again(cloud):
  (cloud.home / 'cut').touch()
  done = cloud('done')
  assert done.returncode == 0, done.stderr
  assert 'this run will done' in done.stdout


def test_uncommitted_changes_are_refused(cloud):
  (cloud.repository / 'new').touch()
  done = cloud('done')
  assert done.returncode == 1 and not calls(cloud, 'create')
  assert done.stderr.startswith(
    'error: there are changes that are not committed'
  )
