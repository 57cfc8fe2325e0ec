"""The command line of experiments: flags, a config file, and its overrides."""

import os
import shlex
import sys
import textwrap
import traceback

from absl import app, flags, logging

from align_jax import hardware, hosts
from align_jax.lab import groups, malloc, overrides
from align_jax.lab.config_file import load, split
from align_jax.lab.effects import Override
from align_jax.learn import stopping

CONFIG = flags.DEFINE_string('config', None, 'A file of configs/.')
WORKDIR = flags.DEFINE_string('workdir', None, 'Where everything is written.')
ONLY = flags.DEFINE_list(
  'only', [], 'Train these arms only; of `reproduce`, run these studies only.'
)
REPORT = flags.DEFINE_bool(
  'report', False, 'Train nothing; write the page from the points there are.'
)
DEVICE = flags.DEFINE_enum(
  'device',
  'auto',
  hardware.DEVICES,
  'What to compute on; auto is the accelerator, if the machine has one.',
)
COORDINATOR = flags.DEFINE_string(
  'coordinator', '', 'HOST:PORT of host 0, of several. A TPU slice knows its.'
)
NUM_HOSTS = flags.DEFINE_integer(
  'num_hosts',
  0,
  'Number of hosts; 1: this one alone. A TPU slice knows it.',
  lower_bound=0,
)
HOST = flags.DEFINE_integer(
  'host',
  -1,
  'Which host this is, from 0. A TPU slice knows it.',
  lower_bound=-1,
)
PORT = flags.DEFINE_integer(
  'coordinator_port',
  hosts.PORT,
  'Port of host 0 of a TPU slice.',
  lower_bound=1,
  upper_bound=hosts.LAST_PORT,
)
WAIT = flags.DEFINE_integer(
  'wait_for_hosts',
  hosts.WAIT,
  'Seconds in which all hosts must be there.',
  lower_bound=1,
)
OF_HOSTS = COORDINATOR, NUM_HOSTS, HOST, PORT, WAIT

HELP = """
  --config.FIELD=VALUE           sets a field, e.g. --config.sft.steps=200
  --config.arms.ARM.FIELD=VALUE  sets it for one arm; --config.arms.*.FIELD for
                                 all; a hyper-parameter of the loss by its name
  --config.arms.ARM.FIELD=[A,B]  sweeps it
  --config.arms.ARM=None         drops the arm
  --profile=FIRST:LAST           traces these updates of each run
"""


def fields_help(cfg, prefix=''):
  """Lines 'FIELD = VALUE' of all fields of a config."""
  for name, value in cfg.items():
    path = f'{prefix}{name}'
    if isinstance(value, dict) and value and name not in overrides.TABLES:
      yield from fields_help(value, f'{path}.')
    elif isinstance(value, dict) and name in overrides.TABLES:
      yield f'  {path}: {", ".join(value)}' if value else f'  {path}: none'
    else:
      yield f'  {path} = {value!r}'


def show_help(argv):
  """Prints the module's docstring, its flags, and a config's fields."""
  doc = sys.modules['__main__'].__doc__ or ''
  print(textwrap.dedent(doc).strip(), '\n\nflags:')
  for flag in (CONFIG, WORKDIR, ONLY, REPORT, DEVICE, *OF_HOSTS):
    print(f'  --{flag.name}: {flags.FLAGS[flag.name].help}')
  print(HELP)
  given = [a.partition('=')[2] for a in argv if a.startswith('--config=')]
  path = given[-1] if given else 'configs/base.py'
  print(f'fields, with their values in {path}:')
  print('\n'.join(fields_help(load(path))))


def start(run, check=groups.check):
  """Parses the command line and calls `run`.

  An error of the user prints one line instead of a traceback.

  Args:
    run: called with the overridden config as plain dicts, and its Overrides.
    check: raises ValueError for a wrong config.
  """
  try:
    argv, given = split(sys.argv)
    if {'--help', '-h', '-help', '--helpfull'} & set(argv[1:]):
      show_help(argv)
      return
  except ValueError as error:
    sys.exit(one_line(error))

  def parse(_):
    for name in flags.FLAGS:  # else the last of two would count
      flags.FLAGS[name].allow_overwrite = False
    try:
      return flags.FLAGS(argv)
    except flags.Error as error:
      sys.exit(one_line(error))

  def guarded(rest):
    logging.set_verbosity(logging.ERROR)  # orbax logs each step of a save
    try:
      if len(rest) > 1:
        raise ValueError(f'unexpected argument {rest[1]!r}')
      if CONFIG.value is None:
        raise ValueError('--config is required')
      hardware.choose(DEVICE.value)
      cfg = load(CONFIG.value)
      check(cfg)
      groups.check_families(cfg)
      told = [Override(path, text, cfg, given) for path, text in given]
      cfg = overrides.apply(cfg, given)
      check(cfg)
      run(cfg, told)
    except stopping.Stopped as error:
      print(f'stopped: {error}. The same command goes on', file=sys.stderr)
      if hosts.count() > 1:  # a launcher must not take it for a failure
        hosts.finish()
        sys.exit(0)
      sys.exit(128 + stopping.answered())
    except (ValueError, OSError) as error:
      if os.environ.get('ALIGN_JAX_TRACEBACK'):
        raise
      if hosts.count() > 1:
        hosts.leave(one_line(error).removeprefix('error: '))
      sys.exit(one_line(error))

  def on_hosts(rest):
    try:
      guarded(rest)
    except (Exception, KeyboardInterrupt) as error:
      if hosts.count() > 1:  # the others would wait for this one
        traceback.print_exc()
        hosts.leave(f'{type(error).__name__}: {error}')
      raise

  malloc.keep()
  app.run(on_hosts, flags_parser=parse)


def refuse_hosts(why):
  """Raises ValueError for flags of several hosts.

  Args:
    why: they are of no use, a clause.
  """
  for flag in (COORDINATOR, NUM_HOSTS, HOST):
    if flags.FLAGS[flag.name].present:
      raise ValueError(f'--{flag.name}={flag.value}: {why}, expected none')


def refuse_slice(why):
  """Raises ValueError on a TPU slice of several hosts, which start together.

  Args:
    why: they are of no use, a clause.
  """
  if (number := hosts.of_slice()) > 1:
    raise ValueError(f'this TPU slice has {number} hosts: {why}')


def join_hosts():
  """Joins the hosts that the flags or the TPU slice say."""
  hosts.start(
    COORDINATOR.value, NUM_HOSTS.value, HOST.value, PORT.value, WAIT.value
  )


def one_line(error):
  """An error as one line. A KeyError's text is a repr, so `args` is used."""
  text = error.args[0] if isinstance(error, KeyError) else error
  return f'error: {" ".join(str(text).split())}'


def command():
  """The command line as typed, for the page."""
  spec = sys.modules['__main__'].__spec__
  program = ['python', '-m', spec.name] if spec else sys.argv[:1]
  return shlex.join([*program, *sys.argv[1:]])
