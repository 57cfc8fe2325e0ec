"""What a file is, what becomes of its rows, and how the model will see them."""

import sys

import numpy as np

from align_jax import paths
from align_jax.data import formats, named_templates, pipeline, readers
from align_jax.data.examples import make_encoder, marker_lines
from align_jax.data.row import Counts
from align_jax.data.tokens import load_tokenizer
from align_jax.tools import cli

PERCENTILES = (0, 50, 90, 99, 100)
SHOWN = 3  # rows


def make_parser():
  """The command line of `align data show`."""
  parser = cli.Parser(prog='align data show', description=__doc__)
  add = parser.add_argument
  add('path', help='a file, folder, text with *, or id of a hub data set')
  add('--split', default='train', help='of a folder or a hub data set')
  add('--revision', help='of a hub data set')
  add('--config', help='of a hub data set, or a folder within one')
  add('--dataset', choices=sorted(readers.DATASETS), help='how to read rows')
  add('--tokenizer', help='a tokenizer.json or a folder')
  add('--bos-token', help='another BOS than the tokenizer names')
  add('--eos-token', help='another EOS than the tokenizer names')
  add(
    '--template',
    help=f'a Jinja file, or of {sorted(named_templates.TEMPLATES)}',
  )
  add('--prompt-len', type=int, help='most tokens of a prompt, BOS included')
  add('--completion-len', type=int, help='most tokens, EOS included')
  add('--long-prompt', default='drop', choices=('drop', 'left', 'error'))
  add('--long-completion', default='drop', choices=('drop', 'right', 'error'))
  add('--on-bad-row', default='error', choices=('error', 'skip'))
  add('--max-bad-share', type=float, default=0.05)
  add('--duplicates', default='keep', choices=('keep', 'drop'))
  return parser


TOKENS_ONLY = ('template', 'bos_token', 'eos_token', 'prompt_len')
TOKENS_ONLY = (*TOKENS_ONLY, 'completion_len', 'long_prompt', 'long_completion')


def check(args):
  """Refuses flags without effect.

  Raises:
    ValueError: names the flag.
  """
  default = make_parser().get_default
  given = lambda name: getattr(args, name) != default(name)
  flag = lambda name: f'--{name.replace("_", "-")}={getattr(args, name)}'
  for name in TOKENS_ONLY:
    if given(name) and not args.tokenizer:
      raise ValueError(f'{flag(name)}: expected --tokenizer with it')
  for name in ('split', 'config', 'revision'):
    if given(name) and paths.path(args.path).is_file():
      raise ValueError(f'{flag(name)}: {args.path} is a file, which has none')


def lengths_line(name, lengths):
  """One line of percentiles."""
  if not len(lengths):
    return f'{name}: none'
  values = np.percentile(lengths, PERCENTILES, method='nearest').tolist()
  return f'{name}: ' + ', '.join(
    f'{p}% {v}' for p, v in zip(PERCENTILES, values)
  )


def counts_lines(counts):
  """What became of the rows."""
  yield f'rows: {counts.rows}'
  if counts.more:
    yield f'examples beyond the first of a row: {counts.more}'
  yield f'kept: {counts.kept}'
  for name in ('bad', 'dropped', 'notes'):
    found = getattr(counts, name)
    title = 'of the kept' if name == 'notes' else name
    yield f'{title}: {sum(found.values())}'
    yield from (f'  {count}  {reason}' for reason, count in found.most_common())


def _marked(tokenizer, ids, mask):
  """Tokens between bars; those that a loss may touch in brackets."""
  shown = []
  for i, ours in zip(ids, mask):
    # As the vocabulary writes it: bytes of a character may be several tokens.
    token = tokenizer.id_to_token(i)
    token = ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in token)
    shown.append(f'[{token}]' if ours else token)
  return '|'.join(shown)


def _encoded_lines(tokenizer, encoded):
  yield f'{encoded.where} ({encoded.format})'
  prompt = _marked(tokenizer, encoded.prompt, [False] * len(encoded.prompt))
  yield f'  prompt, {len(encoded.prompt)} tokens: {prompt}'
  sides = zip(encoded.completions, encoded.masks, encoded.rewards)
  for ids, mask, reward in sides:
    shown = _marked(tokenizer, ids, mask)
    yield (
      f'  completion, reward {reward:g}, {len(ids)} tokens, {sum(mask)} in the '
      f'loss: {shown}'
    )


def _example_lines(example):
  yield f'{example.where} ({example.format})'
  yield f'  prompt: {example.prompt!r}'
  for text, reward in zip(example.completions, example.rewards):
    yield f'  completion, reward {reward:g}: {text!r}'


def _size(text):
  return len(text) if isinstance(text, str) else sum(map(_message_size, text))


def _message_size(message):
  return len(message['content'])


def _texts(args, counts, which):
  """Without a tokenizer: lengths in characters."""
  found, prompts, sides = [], [], []
  for example in pipeline.read_examples(
    args.path, args.dataset, counts=counts, **which
  ):
    counts.kept += 1
    prompts.append(_size(example.prompt))
    sides += map(_size, example.completions)
    if len(found) < SHOWN:
      found.append('\n'.join(_example_lines(example)))
  return found, prompts, sides, 'characters', []


def _tokens(args, counts, which):
  vocabulary = load_tokenizer(
    args.tokenizer,
    bos_token=args.bos_token,
    eos_token=args.eos_token,
    needs_bos=False,
  )
  template = named_templates.load_template(args.template or args.tokenizer)
  encoder = make_encoder(vocabulary, template)
  limits = pipeline.Limits(
    args.prompt_len, args.completion_len, args.long_prompt, args.long_completion
  )
  found, prompts, sides = [], [], []
  for encoded in pipeline.read(
    args.path, encoder, limits, args.dataset, counts=counts, **which
  ):
    prompts.append(len(encoded.prompt))
    sides += map(len, encoded.completions)
    if len(found) < SHOWN:
      shown = _encoded_lines(vocabulary.tokenizer, encoded)
      found.append('\n'.join(shown))
  return found, prompts, sides, 'tokens', marker_lines(encoder)


def show(args):
  """Yields the lines for the parsed arguments.

  Raises:
    ValueError: a flag without effect, see `check`; a bad file.
  """
  check(args)
  counts = Counts(args.on_bad_row, args.max_bad_share)
  which = {
    k: getattr(args, k) for k in ('split', 'revision', 'config', 'duplicates')
  }
  read = _tokens if args.tokenizer else _texts
  found, prompts, sides, unit, told = read(args, counts, which)
  dataset, kind, columns = counts.found
  used = sorted(formats.FORMATS[kind][0]) if kind else []
  yield f'{args.path}: columns {columns}'
  yield f'read as {dataset}, which makes {kind} rows: {used}'
  if counts.ignored:
    yield f'ignored columns: {sorted(counts.ignored)}'
  yield from counts_lines(counts)
  yield lengths_line(f'{unit} of a prompt', prompts)
  yield lengths_line(f'{unit} of a completion', sides)
  yield from told
  if args.tokenizer:
    yield 'rows as the model sees them; [in brackets]: in the loss'
  yield from found


def main(argv=None):
  """Runs the command line; a mistake is one line, and exit status 1."""
  args = make_parser().parse_args(argv)
  # A terminal of few characters gets the codes of others.
  sys.stdout.reconfigure(errors='backslashreplace')
  sys.stderr.reconfigure(errors='backslashreplace')
  cli.show(show(args))


if __name__ == '__main__':
  main()
