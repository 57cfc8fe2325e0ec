"""From rows to Batches: what is cut, counted and read back."""

import json
import random
import string

import numpy as np
import pytest
from test_data_formats import example

from align_jax import data
from align_jax.data import named_templates, pipeline
from align_jax.data.examples import (
  ALTERED,
  BOUNDARY,
  encode_example,
  make_encoder,
)
from align_jax.data.row import Counts


@pytest.fixture(scope='module')
def encoder():
  """One whose EOS is also what padding is filled with."""
  tokenizer = data.train_tokenizer(['the capital of France is Paris'] * 3, 290)
  return make_encoder(data.Vocabulary(tokenizer, 1, 0), named_templates.HH)


def encoded(encoder, **fields):
  return encode_example(encoder, example(**fields))


def text_of(encoder, ids):
  decode = encoder.vocabulary.tokenizer.decode
  return decode(ids, skip_special_tokens=False)


def test_a_preference_is_a_pair(encoder):
  row = dict(prompt='the capital', chosen=' of France', rejected=' is Paris.')
  batch = pipeline.make_batch([encoded(encoder, **row)] * 3, 20, 30)
  assert batch.group_size == 2 and batch.num_prompts == 3
  np.testing.assert_array_equal(batch.rewards, [1, 0] * 3)
  np.testing.assert_array_equal(batch.mask, batch.valid)
  lengths = np.asarray(batch.valid).sum(1)
  for i, text in enumerate([' of France', ' is Paris.']):
    ids = np.asarray(batch.completions[i])
    # The EOS is in the loss, though padding has the same id.
    assert ids[lengths[i] - 1] == 0 and batch.mask[i, lengths[i] - 1]
    assert not np.asarray(batch.mask[i, lengths[i] :]).any()
    assert text_of(encoder, ids[: lengths[i] - 1].tolist()) == text
  prompt = np.asarray(batch.prompts[0])[np.asarray(batch.prompt_valid[0])]
  assert prompt[0] == 1 and text_of(encoder, prompt[1:]) == 'the capital'


def test_unpaired_rows_and_demonstrations_are_groups_of_one(encoder):
  row = dict(prompt='the', completion=' capital')
  rows = [encoded(encoder, **row, label=x) for x in (True, False)]
  batch = pipeline.make_batch([*rows, encoded(encoder, **row)], 9, 9)
  assert batch.group_size == 1
  np.testing.assert_array_equal(batch.rewards, [1, 0, 1])


def test_several_completions_with_scores(encoder):
  row = dict(prompt='a', completions=['b', 'c', 'd'], scores=[0.5, 2, -1])
  batch = pipeline.make_batch([encoded(encoder, **row)] * 2, 9, 9)
  assert batch.group_size == 3
  np.testing.assert_array_equal(batch.rewards, [0.5, 2, -1] * 2)


def test_prompts_and_whole_texts(encoder):
  prompts = pipeline.make_prompts([encoded(encoder, prompt='the capital')], 12)
  assert prompts.tokens.shape == (1, 12) and prompts.valid[0, -1]
  whole = encoded(encoder, text='the capital')
  assert whole.prompt == [1] and text_of(encoder, whole.completions[0][:-1])


def test_a_batch_is_of_one_kind(encoder):
  one = encoded(encoder, prompt='a', completion='b')
  two = encoded(encoder, prompt='a', chosen='b', rejected='c')
  none = encoded(encoder, prompt='a')
  for rows, said in (
    ([one, two], '1 .x row 1., 2 .x row 1.'),
    ([none], '0 .x'),
    ([], 'none'),
  ):
    with pytest.raises(ValueError, match=f'as many completions .*{said}'):
      pipeline.make_batch(rows, 9, 9)


def test_a_whole_text_needs_a_bos(encoder):
  bare = encoder._replace(vocabulary=encoder.vocabulary._replace(bos_id=None))
  assert (
    encoded(bare, prompt='a').prompt == encoded(encoder, prompt='a').prompt[1:]
  )
  with pytest.raises(data.RowError, match='x row 1: a text needs a BOS'):
    encoded(bare, text='a')


@pytest.mark.parametrize(
  'limits, kept, said',
  [
    (dict(prompt_len=3), None, 'row 2: prompt of 7 tokens, more than prompt_l'),
    (dict(prompt_len=3, long_prompt='drop'), [2, 4], 'prompt over 3 tokens'),
    (dict(prompt_len=3, long_prompt='left'), [2, 3, 3], 'prompt cut to 3'),
    (dict(completion_len=2), None, 'row 3: completion of 7 tokens, more than'),
    (dict(completion_len=2, long_completion='drop'), [2, 7], 'completion over'),
    (
      dict(completion_len=2, long_completion='right'),
      [2, 7, 3],
      'completion cut to 2',
    ),
  ],
)
def test_what_is_too_long(tmp_path, limits, kept, said):
  vocabulary = data.Vocabulary(data.train_tokenizer((), 259), 1, 2)
  encoder = make_encoder(vocabulary)
  rows = [('a', 'b'), ('abcdef', 'b'), ('ab', 'bcdefg')]
  path = tmp_path / 'x.jsonl'
  path.write_text(
    ''.join(json.dumps(dict(prompt=p, completion=c)) + '\n' for p, c in rows)
  )
  counts = Counts('skip', 1.0)
  read = pipeline.read(path, encoder, pipeline.Limits(**limits), counts=counts)
  if kept is None:
    with pytest.raises(ValueError, match=said):
      list(read)
    return
  found = list(read)
  lengths = [len(x.prompt) for x in found]
  assert lengths == [k if k != 4 else 3 for k in kept]
  assert said in str(counts.dropped + counts.notes) and counts.balanced()
  if limits.get('long_prompt') == 'left':
    assert text_of(encoder, found[1].prompt[1:]) == 'ef'
    assert found[1].prompt[0] == vocabulary.bos_id


def test_answers_that_are_alike_once_cut_are_dropped(tmp_path):
  vocabulary = data.Vocabulary(data.train_tokenizer((), 259), 1, 2)
  row = lambda chosen: dict(prompt='a', chosen=chosen, rejected='bcx')
  path = tmp_path / 'x.jsonl'
  path.write_text('\n'.join(json.dumps(row(c)) for c in ('bcd', 'cd')))
  counts = Counts()
  limits = pipeline.Limits(9, 2, long_completion='right')
  (kept,) = pipeline.read(path, make_encoder(vocabulary), limits, counts=counts)
  decode = vocabulary.tokenizer.decode
  assert [decode(x) for x in kept.completions] == ['cd', 'bc']  # no EOS
  assert kept.masks == [[True, True]] * 2
  assert counts.dropped == {'completions alike once they are cut': 1}
  assert counts.balanced()


@pytest.mark.parametrize(
  'limits, said',
  [
    (dict(long_prompt='cut'), "long_prompt='cut', expected one of"),
    (dict(long_completion='left'), "long_completion='left', expected one of"),
    (dict(prompt_len=1), 'prompt_len=1 is below 2'),
    (dict(completion_len=0), 'completion_len=0 is below 1'),
  ],
)
def test_limits_that_cannot_be(encoder, limits, said):
  with pytest.raises(ValueError, match=said):
    list(pipeline.read('x.jsonl', encoder, pipeline.Limits(**limits)))


# --- Nothing is lost ---------------------------------------------------------


def random_text(rng):
  alphabet = string.printable + 'üé日本\u2028\x85\U0001f600  \n\n' + '<s></s>'
  text = ''.join(rng.choices(alphabet, k=rng.randrange(40)))
  return text + rng.choice(['', '</s>', '<|im_end|>', '<s>', ' '])


def random_row(rng):
  text = lambda: random_text(rng)
  one = lambda role: [dict(role=role, content=text())]
  return rng.choice(
    [
      lambda: dict(prompt=text(), chosen=text(), rejected=text()),
      lambda: dict(
        prompt=one('user'), chosen=one('assistant'), rejected=one('assistant')
      ),
      lambda: dict(prompt=text(), chosen=text(), rejected=None),
    ]
  )()


def as_text(prompt, completion):
  """What a conversation is in the template of HH-RLHF."""
  if isinstance(prompt, str):
    return prompt, completion
  said = prompt[0]['content'], completion[0]['content']
  return f'\n\nHuman: {said[0]}\n\nAssistant:', f' {said[1]}'


def test_rows_are_kept_or_counted_and_read_back(tmp_path):
  rng = random.Random(0)
  tokenizer = data.train_tokenizer(['a few words'], 270)
  vocabulary = data.Vocabulary(tokenizer, 1, 2)
  encoder = make_encoder(vocabulary, named_templates.HH)
  rows = [random_row(rng) for _ in range(2000)]
  path = tmp_path / 'x.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  counts = Counts('skip', 1.0)
  limits = pipeline.Limits(60, 50, 'drop', 'drop')
  found = list(pipeline.read(path, encoder, limits, counts=counts))
  lost = sum(counts.bad.values()) + sum(counts.dropped.values())
  assert counts.rows == 2000 == len(found) + lost
  assert len(found) > 500 < lost and counts.notes[ALTERED] == 0
  for x in found:
    row = rows[int(x.where.rsplit(' ')[-1]) - 1]
    sides = [row['chosen'], row['rejected']]
    assert x.prompt[0] == 1 and 1 not in x.prompt[1:] and 2 not in x.prompt
    for ids, side in zip(x.completions, sides):
      assert ids[-1] == 2 and not {1, 2} & set(ids[:-1])
      read_back = [text_of(encoder, y) for y in (x.prompt[1:], ids[:-1])]
      assert tuple(read_back) == as_text(row['prompt'], side)


def test_what_a_tokenizer_cannot_write_is_counted(tmp_path):
  import tokenizers

  found = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(
      {'<s>': 0, '</s>': 1, '<unk>': 2, 'a': 3}, unk_token='<unk>'
    )
  )
  found.add_special_tokens(['<s>', '</s>', '<unk>'])
  found.encode_special_tokens = True
  encoder = make_encoder(data.Vocabulary(found, 0, 1))
  for text, notes in (('a', ()), ('b', (ALTERED,))):
    assert encoded(encoder, text=text).notes[:1] == notes


def test_the_boundary_is_noted(encoder):
  """`France` is one token; a rollout after `Fra` begins with `nce`."""
  whole = encoder.vocabulary.tokenizer.encode('France').ids
  row = dict(prompt='the capital of Fra', completion='nce')
  apart = encoded(encoder, **row)
  assert apart.notes == (BOUNDARY,)
  assert apart.completions[0][-2:] != [*whole, 0]
  assert not encoded(encoder, prompt='the capital', completion=' of').notes
