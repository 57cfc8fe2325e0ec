"""Does a checkpoint come out as transformers has it?

  python -m align_jax.tools.check_model FOLDER

Loads a folder or hub id; compares the full forward with cached decoding, and,
where torch is installed, logits, exact KL per token and greedy tokens with
transformers in float32. Prints a line per check, and then `pass`, `FAIL`, or
`not compared` where transformers was not there; exits 1 if a check fails.
"""

import sys
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np

from align_jax import ops
from align_jax.models import hf, transformer
from align_jax.models.vocabulary import pad_token_id, scored_at
from align_jax.tools.cli import Parser, whole

PROMPTS, SIZE = 2, 12  # random tokens, the second prompt left-padded
LOGITS = 1e-4  # largest difference, relative to the largest logit
KL = 1e-6  # nats per token


def head_outputs(params, c, states):
  """Logits [..., V] in float32, or scores [...] of a scalar head."""
  states = states.astype(jnp.float32)
  if c.head == 'scalar':
    return states @ params['head'].astype(jnp.float32)
  return transformer.logits(states, transformer.head_weights(params, c), c)


def full(params, c, prompts, valid, completions):
  """What the head says after each token: [P, S + T, ...]."""
  states = transformer.hidden_states(
    params, c, prompts, valid, completions[:, None], completions[:, None] >= 0
  )
  states = jnp.concatenate([states[0], states[1][:, 0]], 1)
  return head_outputs(params, c, states)


def greedy(params, c, prompts, valid, size):
  """Tokens [P, size] and their logits [P, size, V], one at a time, cached."""
  state, kv = transformer.prefill(params, c, prompts, valid)
  first = head_outputs(params, c, state[:, None])
  layers = transformer.split_layers(params, c)
  cache = transformer.empty_cache(c, len(prompts), 1, size)

  def step(carry, index):
    logits, cache = carry
    token = logits.argmax(-1)
    state, cache = transformer.decode_step(
      layers, c, token, index, kv, valid, cache
    )
    return (head_outputs(params, c, state), cache), (token[:, 0], logits[:, 0])

  _, (tokens, logits) = jax.lax.scan(step, (first, cache), jnp.arange(size))
  return tokens.T, logits.swapaxes(0, 1)


def relative(x, y):
  """The largest difference over the largest value; 0 where both are all 0."""
  most, away = np.abs(y).max(), np.abs(x - y).max()
  return float(away / most) if most else float(away)


class Report:
  """Prints a line per figure and remembers whether all are in bounds."""

  ok = True

  def __call__(self, what, value, bound):
    passed = bool(value <= bound)  # not a number fails
    self.ok &= passed
    word = 'pass' if passed else 'FAIL'
    print(f'{word}  {what}: {value:.2e} (at most {bound:.0e})')


def check_decoding(report, model, prompts, valid, size):
  """-> greedy tokens [P, size]; cached logits against the full forward's."""
  c, start = model.config, prompts.shape[1] - 1
  decode = jax.jit(greedy, static_argnums=(1, 4))
  tokens, logits = decode(model.params, c, prompts, valid, size)
  whole = jax.jit(full, static_argnums=1)(
    model.params, c, prompts, valid, tokens
  )
  whole = whole[:, start : start + size]
  report('cached decoding, logits', relative(logits, whole), LOGITS)
  return np.asarray(tokens)


def theirs(folder, scalar):
  """The same model in transformers, float32, no code of the checkpoint run.

  Raises:
    ValueError: transformers refuses it, for whatever reason.
  """
  import transformers

  auto = transformers.AutoModelForCausalLM
  if scalar:
    auto = transformers.AutoModelForSequenceClassification
  try:
    return auto.from_pretrained(folder, dtype='float32').eval()
  except Exception as error:  # of any kind: its code reads files that it trusts
    what = ' '.join(f'{type(error).__name__}: {error}'.split())
    raise ValueError(f'{folder}: transformers refuses it: {what}') from None


def check_transformers(report, name, model, prompts, valid, completions):
  """Compares logits, KLs and greedy tokens, or scores, with transformers."""
  import torch

  c = model.config
  tokens = np.concatenate([prompts, completions], 1).astype(np.int64)
  mask = np.concatenate([valid, np.ones(completions.shape, bool)], 1)
  positions = np.maximum(mask.cumsum(1) - 1, 0)
  other = theirs(name, c.head == 'scalar')

  def logits(*rows):
    ids, mask, positions = (torch.tensor(x.astype(np.int64)) for x in rows)
    return other(
      ids, attention_mask=mask, position_ids=positions, use_cache=False
    ).logits.numpy()

  # A row at a time, since a scalar head without padding reads no more.
  rows = (x[:, None] for x in (tokens, mask, positions))
  with torch.no_grad():
    want = np.concatenate([logits(*row) for row in zip(*rows)])
  got = jax.jit(full, static_argnums=1)(
    model.params, c, prompts, valid, completions
  )
  got = np.asarray(got)
  if c.head == 'scalar':
    pad_id = pad_token_id(model.hf_config)
    last = [scored_at(row, pad_id) for row in tokens]
    got = got[np.arange(len(got)), last]
    return report('scores', relative(got, want[:, 0]), LOGITS)
  report('logits', relative(got[mask], want[mask]), LOGITS)
  kls = np.asarray(ops.token_kl(got, want))[mask]
  report('KL per token, nats', float(np.abs(kls).max()), KL)
  size = prompts.shape[1] - 1
  ours, their = (x[:, size:-1].argmax(-1) for x in (got, want))
  report('greedy tokens that differ', float((ours != their).sum()), 0)


def main(argv=None):
  """The command `align check`; exit status 1 if a check fails."""
  try:
    return check(argv)
  except (ValueError, FileNotFoundError) as error:
    sys.exit(f'FAIL  {error}')


def check(argv):
  """Prints a line per check of the checkpoint that a command line names.

  Returns:
    0, or 1 if one fails.
  Raises:
    ValueError, FileNotFoundError: no such checkpoint, or one that cannot be
      checked.
  """
  parser = Parser(prog='align check', description=__doc__.split('\n')[0])
  parser.add_argument('folder', help='a local folder or a hub id')
  parser.add_argument('--tokens', type=whole, default=32, help='decoded')
  args = parser.parse_args(argv)
  length = SIZE + args.tokens
  folder = hf.fetch(args.folder)
  # transformers gives ids that are no tokens a chance.
  model = hf.load(folder, max_length=length, no_tokens=())
  most = model.config.num_positions
  if most and length > most:
    raise ValueError(
      f'--tokens={args.tokens}, expected at most {most - SIZE}: {folder} has '
      f'{most} positions, and prompts have {SIZE} tokens'
    )
  c, report = model.config, Report()
  count = sum(x.size for x in jax.tree.leaves(model.params))
  print(f'{model.hf_config["model_type"]}, {count:,} parameters')
  rng = np.random.default_rng(0)
  low = min(3, c.vocab_size - 1)
  valid = np.arange(SIZE) >= np.array([[0], [SIZE // 3]])[:PROMPTS]
  prompts = rng.integers(low, c.vocab_size, valid.shape, np.int32)
  random = lambda: rng.integers(low, c.vocab_size, (PROMPTS, args.tokens))
  completions = random().astype(np.int32)
  if c.head == 'lm':
    completions = check_decoding(report, model, prompts, valid, args.tokens)
  missing = [x for x in ('torch', 'transformers') if not find_spec(x)]
  for name in missing:
    print(f'skip  {name} is not installed: not compared with transformers')
  if not missing:
    check_transformers(report, folder, model, prompts, valid, completions)
  passed = 'not compared' if missing else 'pass'
  print(passed if report.ok else 'FAIL')
  return 0 if report.ok else 1


if __name__ == '__main__':
  sys.exit(main())
