"""Judges from checkpoints: the arithmetic of their answers."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny_checkpoints
from conftest import flags_for, needs_torch
from tiny_judges import (
  CONFIG,
  OTHERS,
  PAIRS,
  PROMPTS,
  SCALAR,
  TEXTS,
  random_params,
  write,
)

from align_jax import data, judges
from align_jax.judges import pairwise
from align_jax.judges.reader import open_reader
from align_jax.models import hf, hf_export, transformer
from align_jax.models.vocabulary import pad_token_id, scored_at

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'hf'


# --- Reward models ------------------------------------------------------------


def words_folder(tmp_path, name):
  """A golden checkpoint, with a tokenizer of a word per token."""
  import tokenizers

  shutil.copytree(GOLDEN / name, tmp_path, dirs_exist_ok=True)
  size = json.loads((tmp_path / 'config.json').read_text())['vocab_size']
  vocabulary = {f'w{i}': i for i in range(size)}
  words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, 'w0'))
  words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  words.save(str(tmp_path / 'tokenizer.json'))
  settings = dict(bos_token=None, eos_token='w2')
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps(settings))
  return tmp_path


def test_scores_are_those_that_transformers_gave(tmp_path):
  """tests/golden/make_hf.py wrote checkpoint and scores."""
  g = dict(np.load(GOLDEN / 'qwen2_scores' / 'golden.npz'))
  folder = words_folder(tmp_path, 'qwen2_scores')
  said = lambda ids: ''.join(f' w{i}' for i in ids)
  asked = [said(p[v]) for p, v in zip(g['prompts'], g['valid'])]
  size = g['completions'].shape[1]
  reward = judges.reward_model(folder)
  got = reward(
    [text for text in asked for _ in range(size)],
    [said(ids) for group in g['completions'] for ids in group],
  )
  assert got.dtype == np.float32
  scale = np.abs(g['scores']).max()
  np.testing.assert_allclose(got, g['scores'], rtol=0, atol=1e-4 * scale)


@needs_torch
@pytest.mark.parametrize('adds_bos', [False, True])
def test_a_chat_is_scored_as_transformers_does(scalar, tmp_path, adds_bos):
  """With its template and without one, whoever writes the BOS."""
  import tokenizers
  import torch
  import transformers

  torch.set_num_threads(1)
  shutil.copytree(scalar, tmp_path, dirs_exist_ok=True)
  file = str(tmp_path / 'tokenizer.json')
  if adds_bos:
    tokenizer = tokenizers.Tokenizer.from_file(file)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
      single='<s> $A', special_tokens=[('<s>', 1)]
    )
    tokenizer.save(file)
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
  auto = transformers.AutoModelForSequenceClassification
  model = auto.from_pretrained(tmp_path, dtype='float32').eval()

  def score(ids):
    assert ids.count(1) == (adds_bos or ids[0] == 1)
    with torch.no_grad():
      return float(model(torch.tensor([ids])).logits[0, 0])

  chats = [
    [dict(role='user', content=p), dict(role='assistant', content=t)]
    for p, t in zip(PROMPTS, TEXTS)
  ]
  texts = [theirs.apply_chat_template(x, tokenize=False) for x in chats]
  ids = [theirs(x, add_special_tokens=False)['input_ids'] for x in texts]
  assert all(x[0] == 1 and x[-2:].count(2) == 1 for x in ids)
  want = [score(x) for x in ids]
  got = judges.reward_model(tmp_path)(PROMPTS, TEXTS)
  assert np.ptp(want) > 0.1
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  plain = [theirs(p + t)['input_ids'] for p, t in zip(PROMPTS, TEXTS)]
  assert all((x[0] == 1) == adds_bos for x in plain)
  got = judges.reward_model(tmp_path, template='')(PROMPTS, TEXTS)
  np.testing.assert_allclose(got, [score(x) for x in plain], 1e-4, 1e-5)


# Rows of `TEMPLATE` end in EOS and a line break, those of ENDS in EOS.
ENDS = "{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}"
TWICE = ENDS.replace('eos_token', 'eos_token + eos_token')


def padding_with(folder, scalar, pad, template):
  """A copy of the checkpoint with that pad token, and that template."""
  if folder != scalar:
    shutil.copytree(scalar, folder)
  for name, change in (
    ('config.json', {'pad_token_id': pad}),
    ('tokenizer_config.json', {'chat_template': template}),
  ):
    fields = json.loads((folder / name).read_text()) | change
    (folder / name).write_text(json.dumps(fields))
  return folder


def test_padding_at_the_end_is_not_scored(scalar, tmp_path):
  """A pad token that is the EOS takes the score to the token before."""
  score = lambda name, *how: judges.reward_model(
    padding_with(tmp_path / name, scalar, *how)
  )(PROMPTS, TEXTS)
  once, twice = score('once', 2, ENDS), score('twice', 2, TWICE)
  last = score('last', None, ENDS)
  assert np.abs(once - last).min() > 1e-3
  # An EOS in the middle of a row is read. The last row's answer is empty.
  assert np.abs(once - twice)[:3].min() > 1e-3
  np.testing.assert_array_equal(score('other', 0, ENDS), last)


@pytest.mark.parametrize(
  'ids, pad, at',
  [
    ([5, 6, 2], 2, 1),
    ([5, 2, 6, 2, 2], 2, 2),
    ([5, 6, 2], None, 2),
    ([5, 6, 2], -1, 2),
    ([2, 2], 2, 0),
    ([2, 5, 6], 2, 2),
  ],
)
def test_a_score_is_read_at_the_last_token_that_is_no_padding(ids, pad, at):
  assert scored_at(ids, pad) == at


def test_a_family_s_own_padding_counts_where_the_file_says_nothing():
  assert pad_token_id({'model_type': 'gemma2'}) == 0
  assert pad_token_id({'model_type': 'phi3', 'pad_token_id': None}) is None
  assert pad_token_id({'model_type': 'llama'}) is None
  for wrong in '0', [0], 0.5, True:
    with pytest.raises(ValueError, match='config.json: pad_token_id='):
      pad_token_id({'model_type': 'llama', 'pad_token_id': wrong})


@needs_torch
@pytest.mark.parametrize('template', [ENDS, TWICE], ids=['once', 'twice'])
@pytest.mark.parametrize('pad', [0, 2, None], ids=['pad', 'eos', 'none'])
def test_whatever_pads_scores_are_those_of_transformers(
  scalar, tmp_path, pad, template
):
  import torch
  import transformers

  torch.set_num_threads(1)
  folder = padding_with(tmp_path / 'x', scalar, pad, template)
  theirs = transformers.AutoTokenizer.from_pretrained(folder)
  auto = transformers.AutoModelForSequenceClassification
  model = auto.from_pretrained(folder, dtype='float32').eval()
  want = []
  for prompt, text in zip(PROMPTS, TEXTS):
    turns = [('user', prompt), ('assistant', text)]
    turns = [dict(role=role, content=content) for role, content in turns]
    ids = theirs.apply_chat_template(turns, return_dict=False)
    assert ids[-1] == 2
    with torch.no_grad():
      want.append(float(model(torch.tensor([ids])).logits[0, 0]))
  got = judges.reward_model(folder)(PROMPTS, TEXTS)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@needs_torch
@pytest.mark.parametrize('family', tiny_checkpoints.FAMILIES)
def test_every_family_pads_with_its_eos(family, tmp_path):
  """As published reward models do: texts end in EOS, and it is not read."""
  import torch
  import transformers

  torch.set_num_threads(1)
  eos = tiny_checkpoints.FAMILIES[family][2]
  folder = tiny_checkpoints.make(
    tmp_path / 'x', family, 3, 'scalar', pad_token_id=None
  )
  theirs = transformers.AutoTokenizer.from_pretrained(folder)
  eos_id = theirs.convert_tokens_to_ids(eos)
  padding_with(folder, folder, eos_id, ENDS)
  auto = transformers.AutoModelForSequenceClassification
  model, info = auto.from_pretrained(
    folder, dtype='float32', output_loading_info=True
  )
  assert not info['missing_keys'] and not info['unexpected_keys']
  want = []
  for prompt, text in zip(PROMPTS, TEXTS):
    ids = theirs(prompt + eos + text + eos, add_special_tokens=False)
    ids = ids['input_ids']
    assert ids[-1] == eos_id
    with torch.no_grad():
      want.append(float(model.eval()(torch.tensor([ids])).logits[0, 0]))
  got = judges.reward_model(folder)(PROMPTS, TEXTS)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_messages_are_prompts_too(reward):
  messages = [[dict(role='user', content=text)] for text in PROMPTS]
  np.testing.assert_array_equal(reward(messages, TEXTS), reward(PROMPTS, TEXTS))


def test_padding_and_batching_change_no_score(scalar, reward):
  want = reward(PROMPTS, TEXTS)
  alone = [reward([p], [t])[0] for p, t in zip(PROMPTS, TEXTS)]
  np.testing.assert_allclose(alone, want, rtol=1e-4, atol=1e-5)
  three = judges.reward_model(scalar, batch_size=3)
  np.testing.assert_allclose(three(PROMPTS, TEXTS), want, rtol=1e-4, atol=1e-5)
  assert reward([], []).shape == (0,)


# --- Pairwise judges ----------------------------------------------------------


def test_the_labels_share_one(judge):
  logps = judge.label_logps(*PAIRS)
  assert logps.shape == (4, 2) and (np.exp(logps).sum(1) < 1).all()
  first = judge.orders(*PAIRS)
  # Asked the other way round, the second column is what the first one was.
  second = judge.orders(PROMPTS, OTHERS, TEXTS)
  np.testing.assert_allclose(first + second[:, ::-1], 1, atol=1e-6)
  want = np.exp(logps[:, 0]) / np.exp(logps).sum(1)
  np.testing.assert_allclose(first[:, 0], want, rtol=1e-5)


def test_swapping_a_pair_swaps_its_verdict(judge):
  one, other = judge(*PAIRS), judge(PROMPTS, OTHERS, TEXTS)
  assert np.abs(one - 0.5).max() > 0.01
  np.testing.assert_allclose(one + other, 1, atol=1e-6)
  np.testing.assert_allclose(judge(PROMPTS, TEXTS, TEXTS), 0.5, atol=1e-6)


def test_padding_and_batching_change_no_verdict(causal, judge):
  want = judge(*PAIRS)
  for size in (1, 3):
    again = judges.llm_judge(causal, batch_size=size)
    np.testing.assert_allclose(again(*PAIRS), want, atol=1e-5)
  limited = judges.llm_judge(causal, max_length=150)
  np.testing.assert_allclose(limited(*PAIRS), want, atol=1e-5)


def biased(folder, like, bias):
  """A judge that says what is shown as A by `bias` nats more than without."""
  model = hf.load(like)
  reader = open_reader(like, 'lm', None, 'float32', 512)
  asked = pairwise.encoded(reader.encoder, 'x').prompt
  (a,), (b,) = pairwise.label_tokens(reader.encoder, ('A', 'B'))
  weak = {k: 0.01 * model.params['layers'][k] for k in ('o', 'down')}
  layers = {**model.params['layers'], **weak}
  params = {**model.params, 'layers': layers}
  tokens = np.array([asked])
  state, _ = transformer.prefill(params, CONFIG, tokens, tokens >= 0)
  direction = state[0] / (state[0] @ state[0])
  head = params['head'].at[:, b].set(params['head'][:, a])
  head = head + 0.1 * random_params(3, CONFIG)['head']
  head = head.at[:, a].add(bias * direction)
  return write(folder, {**params, 'head': head}, CONFIG)


def test_both_orders_remove_a_planted_bias(tmp_path, causal):
  judge = judges.llm_judge(biased(tmp_path, causal, 6.0))
  orders = judge.orders(*PAIRS)
  assert pairwise.flips(orders).all()
  assert pairwise.first_shown(orders).min() > 0.9
  assert (orders[:, 0] > 0.9).all() and (orders[:, 1] < 0.1).all()
  np.testing.assert_allclose(judge(*PAIRS), 0.5, atol=0.1)


def test_position_bias_counts():
  orders = np.array([[0.9, 0.8], [0.9, 0.2], [0.5, 0.5], [0.4, 0.3]])
  assert pairwise.flips(orders).tolist() == [False, True, False, False]
  want = [0.55, 0.85, 0.5, 0.55]
  np.testing.assert_allclose(pairwise.first_shown(orders), want)


def test_a_tie_counts_half(causal):
  labels = ('A', 'B', 'C')
  judge = judges.llm_judge(causal, template=pairwise.TIES_PROMPT, labels=labels)
  chances = np.exp(judge.label_logps(*PAIRS).astype(float))
  chances /= chances.sum(1, keepdims=True)
  assert chances.shape == (4, 3)
  want = chances[:, 0] + chances[:, 2] / 2
  np.testing.assert_allclose(judge.orders(*PAIRS)[:, 0], want, rtol=1e-5)
  swapped = judge(PROMPTS, OTHERS, TEXTS)
  np.testing.assert_allclose(judge(*PAIRS) + swapped, 1, atol=1e-6)


TEMPLATE_OF_WORDS = """{prompt}
first: {first}
second: {second}
Which one? alpha7 or beta7"""


@pytest.mark.parametrize('chat', [None, ''])
def test_a_label_of_several_tokens_has_the_product(causal, chat):
  how = dict(template=TEMPLATE_OF_WORDS, labels=('alpha7', 'beta7'))
  judge = judges.llm_judge(causal, **how, chat_template=chat)
  reader = open_reader(causal, 'lm', chat, 'float32', 512)
  labels = pairwise.label_tokens(reader.encoder, how['labels'])
  assert min(map(len, labels)) > 1
  got = judge.label_logps(*PAIRS)
  for row, shown in enumerate(zip(*PAIRS)):
    question = pairwise.question_of(TEMPLATE_OF_WORDS, *shown)
    asked = pairwise.encoded(reader.encoder, question).prompt
    for label, ids in enumerate(labels):
      total = 0
      for i, token in enumerate(ids):
        arrays = data.left_pad([[*asked, *ids[:i]]], 128)
        state, _ = prefill(reader.model.params, *arrays)
        logits = np.asarray(state[0] @ reader.model.params['head'], float)
        total += logits[token] - np.logaddexp.reduce(logits)
      assert np.isclose(got[row, label], total, atol=1e-3)


@jax.jit
def prefill(params, tokens, valid):
  return transformer.prefill(params, CONFIG, tokens, valid)


LABELS = 'begin with the same tokens'


@pytest.mark.parametrize(
  'knobs, said',
  [
    (dict(labels=('A', 'A')), LABELS),
    (
      dict(template=f'{TEMPLATE_OF_WORDS} x7 x77', labels=('x7', 'x77')),
      LABELS,
    ),
    (dict(labels=('A',)), 'expected two, or three with a tie'),
    (dict(labels=('A', 'Z')), "never mentions the label 'Z'"),
    (dict(template='{prompt} {first} A B'), r"fields \['first', 'prompt'\], e"),
    (dict(template='{prompt} {first} {second} {x} A B'), "'x'"),
    (dict(template='{prompt} {first} {second} { A B'), 'literal braces'),
    (dict(chat_template='no'), 'no: no such file'),
  ],
)
def test_a_judge_that_cannot_ask_is_refused(causal, knobs, said):
  with pytest.raises((ValueError, FileNotFoundError), match=said):
    judges.llm_judge(causal, **knobs)


def test_the_other_kind_of_checkpoint_is_refused(causal, scalar):
  with pytest.raises(ValueError, match='expected one ForSequenceClassificati'):
    judges.reward_model(causal)
  with pytest.raises(ValueError, match='expected one ForCausalLM'):
    judges.llm_judge(scalar)


def test_a_token_that_the_model_lacks_is_named_where_it_is_used(
  scalar, tmp_path
):
  """Those that no row uses do no harm."""
  shutil.copytree(scalar, tmp_path, dirs_exist_ok=True)
  small = dataclasses.replace(SCALAR, vocab_size=300)
  hf_export.export(tmp_path, random_params(0, small), small)
  judge = judges.reward_model(tmp_path)
  assert np.isfinite(judge(['xyz'], ['zyx'])).all()
  message = r"row 1: token '.+' has id 3\d\d, expected one below vocab_size=300"
  with pytest.raises(ValueError, match=message):
    judge(['xyz', PROMPTS[0]], ['zyx', TEXTS[0]])


def test_a_row_too_long_is_named_and_never_cut(scalar, causal):
  reward = judges.reward_model(scalar, max_length=40)
  with pytest.raises(ValueError, match='row 1 has .* more than max_length=40'):
    reward(PROMPTS[:2], ['a', 'z' * 50])
  judge = judges.llm_judge(causal, max_length=40)
  with pytest.raises(ValueError, match='row 0 has .* more than max_length=40'):
    judge(*PAIRS)


SHARDED = """
import json, sys
import numpy as np
from align_jax import judges, sharding
from tiny_judges import PAIRS, PROMPTS, TEXTS

sharding.use_mesh(data=1, fsdp=2, tensor=1)
reward, judge = (
  make(folder, batch_size=2)
  for make, folder in zip((judges.reward_model, judges.llm_judge), sys.argv[1:])
)
out = [reward(PROMPTS, TEXTS), judge(*PAIRS)]
print(json.dumps([x.tolist() for x in out]))
"""


def test_two_devices_judge_as_one_does(scalar, causal, reward, judge):
  root = pathlib.Path(__file__).parents[1]
  path = os.pathsep.join([str(root), str(root / 'tests')])
  done = subprocess.run(
    [sys.executable, '-c', SHARDED, scalar, causal],
    env={
      **os.environ,
      'XLA_FLAGS': flags_for(2),
      'PYTHONPATH': path,
      'JAX_PLATFORMS': 'cpu',
    },
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  scores, chances = json.loads(done.stdout.splitlines()[-1])
  want = reward(PROMPTS, TEXTS)
  np.testing.assert_allclose(scores, want, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(chances, judge(*PAIRS), atol=1e-5)
