"""The sequence KL of a checkpoint from another, in nats.

  align kl REFERENCE POLICY PROMPTS [--samples=4] [--point=points.jsonl]

samples the policy's completions of the prompts at temperature 1, and measures
KL(policy || reference) of whole completions: exact per token over the whole
vocabulary, summed, and by Monte Carlo. --point appends the KL of each prompt as
a row for `align frontier`; docs/points.md has the rest.
"""

import functools
import sys

import jax
import numpy as np

from align_jax import data, paths
from align_jax.compare.points import ARRAYS
from align_jax.data.nested import parse
from align_jax.files import line, listed, text_of, write_atomically
from align_jax.learn import truncated
from align_jax.models import hf, vocabulary
from align_jax.policy import sampling, scoring
from align_jax.tools.cli import Parser, show, whole

KL = ARRAYS[0]


def make_parser():
  """The command line of `align kl`."""
  parser = Parser(prog='align kl', description=__doc__.split('\n')[0])
  add = parser.add_argument
  add('reference', help='a folder of the Hub format, or the id of a model')
  add('policy', help='another, of the same tokenizer')
  add('prompts', help='a file whose rows have prompts; data.md has the formats')
  add('--samples', type=whole, default=4, help='completions of each prompt')
  add('--prompt-len', type=whole, default=512, help='most tokens')
  add('--completion-len', type=whole, default=512, help='most tokens')
  add('--batch-size', type=whole, default=16, help='prompts at a time')
  add('--dtype', default='float32', choices=('float32', 'bfloat16'))
  add(
    '--eos-token', default='', help="what ends a turn, if not the tokenizer's"
  )
  add('--seed', type=_seed, default=0, help='of the samples, and of the point')
  add('--texts', help='a .jsonl for the completions, for your judge')
  add('--point', help='a .jsonl to append a point to')
  add('--arm', default='', help='what the point is compared as')
  add('--step', type=int, default=-1, help='of the point; 0 is the reference')
  return parser


def _seed(text):
  if not 0 <= (number := int(text)) < 2**32:
    raise ValueError
  return number


def check(args):
  """Raises ValueError for a point that could not be compared."""
  if args.point and (not args.arm or args.step < 0):
    raise ValueError('--point: expected --arm and --step, 0 or more, with it')
  if not args.point and (args.arm or args.step >= 0):
    raise ValueError('--arm and --step are of a point: expected --point, too')
  written = [x for x in (args.point, args.texts) if x]
  for path in written:
    if not paths.path(path).name.endswith('.jsonl'):
      raise ValueError(f'{path}: expected a .jsonl')
  named = [paths.absolute(x) for x in (args.prompts, *written)]
  if len(set(named)) < len(named):
    raise ValueError(
      'PROMPTS, --texts and --point: expected different files, got one twice'
    )
  if args.point:
    check_points(args)


def check_points(args):
  """Raises ValueError for a table that is none, or that has the point."""
  key = dict(arm=args.arm, seed=args.seed, step=args.step)
  for number, text in enumerate(rows_in(args.point).split('\n'), 1):
    where = f'{args.point} row {number}'
    row = parse(text.removeprefix('\ufeff'), where) if text.strip() else {}
    if not isinstance(row, dict):
      raise ValueError(f'{where}: expected a JSON object, got {text:.40}')
    if key == {name: row.get(name) for name in key}:
      raise ValueError(
        f'{where}: a point of {args.arm}, seed {args.seed}, step {args.step}, '
        'expected another --arm, --seed or --step'
      )


def rows_in(path):
  """The text of a .jsonl; '' if there is none."""
  return text_of(path) if paths.path(path).exists() else ''


def load(args):
  """-> policy, reference and the vocabulary, which both share."""
  length = args.prompt_len + args.completion_len
  models = [
    hf.load(name, dtype=args.dtype, activations=args.dtype, max_length=length)
    for name in (args.policy, args.reference)
  ]
  words = [
    data.load_tokenizer(name, eos_token=args.eos_token or None, needs_bos=False)
    for name in (args.policy, args.reference)
  ]
  both = f'{args.policy} and {args.reference}'
  vocabulary.check_same(*(x.tokenizer for x in words), both)
  return *_alike(models, both), words[0]


def _alike(models, both):
  """Two hf.Model with as many rows: families pad their embeddings by size.

  Raises:
    ValueError: a row that only one of them has is a token.
  """
  sizes = [model.config.vocab_size for model in models]
  if sizes[0] == sizes[1]:
    return models
  size = max(vocabulary.num_ids(model.config) for model in models)
  if size > min(sizes):
    raise ValueError(
      f'{both}: {sizes[0]} and {sizes[1]} rows for tokens, of which the first '
      f'{size} are in use: expected as many'
    )
  found = []
  for model in models:
    params, config = vocabulary.with_rows(model.params, model.config, size)
    found.append(model._replace(params=params, config=config))
  return found


def read_prompts(args, words):
  """The prompts of a file, tokenised with the policy's template: Prompts."""
  first = next(iter(data.read_examples(args.prompts, counts=data.Counts())))
  if first.format == 'text':
    raise ValueError(
      f'{first.where}: a whole text, expected a row with a prompt, such as '
      '{"prompt": "..."} in a .jsonl'
    )
  encoder = data.make_encoder(words, data.load_template(args.policy))
  limits = data.Limits(args.prompt_len, None, long_prompt='drop')
  counts = data.Counts()
  rows = data.read(args.prompts, encoder, limits, counts=counts)
  found = {}
  for row in rows:
    if found.setdefault(tuple(row.prompt), row) is not row:
      counts.dropped['the prompt of an earlier row'] += 1
  if not found:
    raise ValueError(
      f'{args.prompts}: no prompt of at most {args.prompt_len} tokens'
    )
  for why, number in counts.dropped.items():
    print(f'note: {number} rows left out: {why}', file=sys.stderr)
  return data.make_prompts(list(found.values()), args.prompt_len)


def measure(policy, reference, prompts, ends, args):
  """Samples and compares, some prompts at a time.

  Args:
    policy, reference: hf.Model.
    prompts: Prompts of E prompts.
    ends: id of the EOS, or several.
  Yields:
    the Batch of some prompts, exact KL and log-ratios of its rows: f64 [B].
  """
  sample = jax.jit(
    functools.partial(
      sampling.sample,
      config=policy.config,
      group_size=args.samples,
      max_new_tokens=args.completion_len,
      eos_id=ends,
    )
  )
  compare = jax.jit(
    functools.partial(
      scoring.compare, config=policy.config, ref_config=reference.config
    )
  )
  key = jax.random.key(args.seed)
  starts = range(0, len(prompts), args.batch_size)
  for start in starts:
    part = slice(start, start + args.batch_size)
    ids = np.arange(len(prompts))[part]
    batch = sample(policy.params, *prompts[part], key, prompt_ids=ids)
    kls, logps, ref_logps = compare(policy.params, reference.params, batch)
    rows = (np.asarray(x, np.float64) for x in (kls, logps - ref_logps))
    yield batch, *(x.sum(1) for x in rows)


def told(name, rows, samples):
  """A line: mean over prompts and its standard error, of two or more."""
  by_prompt = rows.reshape(-1, samples).mean(1)
  if len(by_prompt) == 1:
    return f'{name}: {by_prompt[0]:.4f} nats'
  error = by_prompt.std(ddof=1) / len(by_prompt) ** 0.5
  return f'{name}: {by_prompt.mean():.4f} ± {error:.4f} nats'


def append(path, row):
  """Adds a row to a .jsonl, which is written whole or not at all."""
  there = rows_in(path)
  end = '\n' if there and not there.endswith('\n') else ''
  write_atomically(paths.path(path), f'{there}{end}{line(row)}')


def lines(args):
  """Yields what is printed."""
  check(args)
  policy, reference, words = load(args)
  prompts = read_prompts(args, words)
  decode = data.decoder(words.tokenizer)
  texts, kls, ratios, cuts = [], [], [], []
  for batch, kl, ratio in measure(policy, reference, prompts, words.ends, args):
    kls.append(kl)
    ratios.append(ratio)
    cuts.append(int(truncated.unfinished(batch, words.ends).sum()))
    if args.texts:
      texts += [
        dict(zip(('prompt', 'completion'), x)) for x in zip(*decode(batch))
      ]
  kls, ratios = np.concatenate(kls), np.concatenate(ratios)
  if np.isnan(kls).any():
    raise ValueError(
      f'{args.policy} or {args.reference}: log-probs are not numbers'
    )
  if not np.isfinite(kls).all():
    raise ValueError(
      f'{args.policy} may draw tokens that {args.reference} never does: the KL '
      'is infinite'
    )
  yield f'{len(prompts)} prompts, {args.samples} completions each'
  if cut := sum(cuts):
    yield (
      f'{cut} of {len(kls)} completions were cut off at --completion-len='
      f'{args.completion_len}: what would follow is not measured'
    )
  yield told('KL, exact per token', kls, args.samples)
  yield told('KL, Monte Carlo', ratios, args.samples)
  if args.texts:
    write_atomically(paths.path(args.texts), ''.join(map(line, texts)))
    yield f'completions: {args.texts}'
  if args.point:
    by_prompt = kls.reshape(-1, args.samples).mean(1)
    append(
      args.point,
      dict(
        arm=args.arm, seed=args.seed, step=args.step, **{KL: listed(by_prompt)}
      ),
    )
    yield f'point: {args.point}'


def main(argv=None):
  """Runs the command line; a mistake is one line, and exit status 1."""
  show(lines(make_parser().parse_args(argv)))


if __name__ == '__main__':
  main()
