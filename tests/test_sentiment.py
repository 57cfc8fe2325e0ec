"""The sentiment task on made-up reviews: splits, windows, judge and cache."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SHARED, SIZES, needs_shared

from align_jax import data
from align_jax.tasks import judge, sentiment, windows

S, T, SFT_LEN = 4, 6, 10
WORDS = {0: 'bad dull awful poor', 1: 'good bright lovely rich'}
BOS, EOS = 1, 2


def quick_keys():
  """A generator of random numbers that compiles several times faster."""
  return jax.default_prng_impl('unsafe_rbg')


def review(number, rng):
  """A distinct text that speaks as its label says."""
  label = number % 2
  words = rng.choice(WORDS[label].split() + ['film', 'cast', 'a'], 12)
  return {'text': f'{number} {" ".join(words)}', 'label': label}


def knobs(path):
  return dict(
    model=dict(vocab_size=300, num_layers=1, **SIZES),
    data=str(path),
    dataset='text_label',
    tokenizer='',
    prompts=20,
    eval_prompts=8,
    prompt_len=S,
    completion_len=T,
    sft_batch_size=16,
    sft_len=SFT_LEN,
    heldout_reviews=10,
    judge_model=dict(num_layers=2, **SIZES),
    judge_len=8,
    judge_steps=60,
    judge_batch_size=4,
    judge_learning_rate=1e-2,
  )


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('sentiment')


@pytest.fixture(scope='module')
def kwargs(folder):
  rng = np.random.default_rng(0)
  path = folder / 'reviews.jsonl'
  rows = [review(i, rng) for i in range(40)]
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return dict(workdir=folder / 'task', **knobs(path))


@pytest.fixture(scope='module')
def task(kwargs):
  with quick_keys():
    return sentiment.make_task(seed=0, **kwargs)


@pytest.fixture(scope='module')
def batch(task):
  return task.demonstrations(None, jax.random.key(0), 0)


@pytest.fixture(scope='module')
def reviews(task, kwargs):
  with np.load(kwargs['workdir'] / 'reviews.npz') as arrays:
    return windows.Reviews(**arrays)


def marked(reviews, held_out, mark):
  """The same reviews with every token of the held-out ones overwritten."""
  tokens = reviews.tokens.copy()
  tokens[: reviews.starts[held_out]] = mark
  return reviews._replace(tokens=tokens)


def draw(reviews, held_out, seed, size=SFT_LEN, shortest=SFT_LEN):
  return windows.draw_windows(
    jax.tree.map(jnp.asarray, reviews),
    BOS,
    held_out,
    jax.random.key(seed),
    batch_size=64,
    prompt_len=S,
    size=size,
    shortest=shortest,
  )


def valid_tokens(batch):
  """Of each row, prompt and completion: a list of ids."""
  batch = jax.tree.map(np.asarray, batch)
  prompts = [
    row[v].tolist() for row, v in zip(batch.prompts, batch.prompt_valid)
  ]
  rows = [row[v].tolist() for row, v in zip(batch.completions, batch.valid)]
  return [prompt + row for prompt, row in zip(prompts, rows, strict=True)]


def test_prompts_begin_with_bos_once(task):
  for prompts in (task.train_prompts, task.eval_prompts):
    assert prompts.tokens.shape[1] == S and len(prompts) > 4
    first = prompts.valid.argmax(1)
    assert (prompts.tokens[np.arange(len(prompts)), first] == BOS).all()
    assert ((prompts.tokens == BOS) & prompts.valid).sum() == len(prompts)
    assert prompts.valid[:, -1].all()


def test_train_prompts_have_no_eval_prompt(task):
  known = {row.tobytes() for row in task.train_prompts.tokens}
  assert len(known) == len(task.train_prompts)
  assert not known & {row.tobytes() for row in task.eval_prompts.tokens}


def test_equal_prompts_count_once(reviews):
  twice = np.array([3, 4, 3])
  prompts = windows.distinct_prompts(reviews, BOS, twice, S)
  assert len(prompts) == 2
  rest = windows.distinct_prompts(reviews, BOS, twice, S, prompts.tokens[:1])
  np.testing.assert_array_equal(rest.tokens, prompts.tokens[1:])


def test_no_training_window_is_held_out(reviews, kwargs):
  held_out, mark = kwargs['heldout_reviews'], 0  # the id of <pad>
  assert mark not in reviews.tokens
  other = marked(reviews, held_out, mark)
  for seed in range(4):
    rows = valid_tokens(draw(other, held_out, seed))
    assert not any(mark in row for row in rows)
  assert any(mark in row for row in valid_tokens(draw(other, 0, 0)))


def test_log_odds_have_not_seen_the_held_out(reviews, kwargs):
  held_out = kwargs['heldout_reviews']
  other = marked(reviews, held_out, 0)
  odds = [judge.log_odds(x, held_out, 300) for x in (reviews, other)]
  np.testing.assert_array_equal(*odds)
  assert (odds[0] != judge.log_odds(other, 0, 300)).any()


def test_the_tokenizer_has_not_seen_the_held_out(kwargs, tmp_path, monkeypatch):
  seen = []

  def train(texts, vocab_size):
    seen.extend(texts)
    raise KeyboardInterrupt

  monkeypatch.setattr(data.tokens, 'train_tokenizer', train)
  with pytest.raises(KeyboardInterrupt):
    sentiment.make_task(seed=0, **{**kwargs, 'workdir': tmp_path / 'task'})
  texts, _ = sentiment.read(kwargs['data'], 'text_label')
  assert seen == texts[kwargs['heldout_reviews'] :]
  assert not list(tmp_path.iterdir())  # what was not finished is not left


def test_windows_go_on_from_their_prompts(reviews, batch):
  texts = [
    row.tolist() for row in np.split(reviews.tokens, reviews.starts[1:-1])
  ]
  for row in valid_tokens(batch):
    bos, *rest = row
    assert bos == BOS and BOS not in rest
    assert any(
      rest == text[i : i + len(rest)]
      for text in texts
      for i in range(len(text))
    )


def test_eos_is_part_of_a_completion_and_nothing_follows(reviews):
  batch = draw(reviews, 0, 0, size=30, shortest=30)
  completions, valid = np.asarray(batch.completions), np.asarray(batch.valid)
  ended = valid.sum(1) < 30
  assert ended.any()
  last = completions[np.arange(len(valid)), valid.sum(1) - 1]
  assert (last[ended] == EOS).all()
  assert ((completions == EOS) & valid).sum(1).max() == 1
  np.testing.assert_array_equal(batch.mask, batch.valid)


def test_a_text_too_short_for_the_prompt_is_padded():
  tokens = np.array([7, 8, EOS, 9, EOS], np.int32)
  short = windows.Reviews(tokens, np.int32([0, 3, 5]), np.float32([1, 0]))
  batch = windows.openings(short, BOS, np.arange(2), prompt_len=5, size=3)
  np.testing.assert_array_equal(
    batch.prompts, [[0, 0, BOS, 7, 8], [0, 0, 0, BOS, 9]]
  )
  np.testing.assert_array_equal(batch.prompt_valid, np.array(batch.prompts) > 0)
  np.testing.assert_array_equal(batch.completions, [[EOS, 0, 0]] * 2)
  np.testing.assert_array_equal(batch.valid, [[True, False, False]] * 2)


def test_lengths_are_drawn(reviews):
  lengths = np.asarray(draw(reviews, 0, 0, size=6, shortest=2).valid.sum(1))
  assert {2, 6} <= set(lengths.tolist()) <= set(range(1, 7))


def test_demonstrations_are_a_pure_function_of_the_key(task, batch):
  assert batch.completions.shape == (16, SFT_LEN) and batch.group_size == 1
  same = task.demonstrations('any state', jax.random.key(0), 5)
  jax.tree.map(np.testing.assert_array_equal, same, batch)
  other = task.demonstrations(None, jax.random.key(1), 0)
  assert (np.asarray(other.completions) != np.asarray(batch.completions)).any()


def test_held_out_demonstrations_go_on_from_eval_prompts(task):
  held_out = task.held_out_demonstrations()
  rows = lambda x: set(map(tuple, np.asarray(x).tolist()))
  assert rows(held_out.prompts) == rows(task.eval_prompts.tokens)
  assert held_out.completions.shape[1] == SFT_LEN and held_out.group_size == 1


def test_decode_gives_a_text_per_row(task, batch, kwargs):
  texts, _ = sentiment.read(kwargs['data'], 'text_label')
  prompts, completions = task.decode(batch)
  for prompt, completion in zip(prompts, completions, strict=True):
    assert prompt and any(prompt + completion in text for text in texts)
  pairs = batch.replace(
    prompts=batch.prompts[:8], prompt_valid=batch.prompt_valid[:8], group_size=2
  )
  assert task.decode(pairs) == (list(np.repeat(prompts[:8], 2)), completions)


def test_gold_scores_every_row(task, batch, kwargs):
  scores = np.asarray(task.gold(batch))
  assert scores.shape == (16,) and scores.dtype == np.float32
  assert np.isfinite(scores).all() and len(set(scores.tolist())) > 8
  sampled = batch.replace(sampler_logps=jnp.zeros(batch.valid.shape))
  np.testing.assert_array_equal(task.gold(sampled), scores)
  again = sentiment.make_task(seed=1, **kwargs)
  np.testing.assert_array_equal(again.gold(batch), scores)


def test_the_judge_learns_and_says_how_well(task, kwargs):
  told = json.loads((kwargs['workdir'] / 'judge.json').read_text())
  assert told['accuracy'] >= 0.8 and told['opening_accuracy'] >= 0.8
  assert told['reviews'] == 10 and told['tokens'] == S + T


def test_made_once(task, kwargs, monkeypatch):
  monkeypatch.setattr(sentiment, 'build', lambda *_, **__: pytest.fail('again'))
  sentiment.prepare(**kwargs)
  moved = kwargs['workdir'].parent / 'moved.jsonl'
  moved.write_bytes(pathlib.Path(kwargs['data']).read_bytes())
  sentiment.prepare(**{**kwargs, 'data': moved, 'prompts': 3, 'sft_len': 5})


@pytest.mark.parametrize(
  'field, value', [('judge_steps', 61), ('heldout_reviews', 9)]
)
def test_other_settings_are_refused(task, kwargs, field, value):
  with pytest.raises(ValueError, match=f'task was made with {field}=') as error:
    sentiment.prepare(**{**kwargs, field: value})
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'changed, error, said',
  [
    (dict(judge_step=3), TypeError, 'judge_step'),
    (dict(dataset='nope'), ValueError, "task.dataset='nope' is none of"),
    (
      dict(eval_prompts=11),
      ValueError,
      'eval_prompts=11, expected a whole number from 1 to 10',
    ),
    (dict(heldout_reviews=40), ValueError, '40 distinct texts, of which 40'),
    (dict(data='no.jsonl'), FileNotFoundError, 'no.jsonl: no such file'),
  ],
)
def test_mistakes_are_told_in_one_line(kwargs, tmp_path, changed, error, said):
  with pytest.raises(error, match=said) as raised:
    sentiment.prepare(**{**kwargs, 'workdir': tmp_path / 'task', **changed})
  assert '\n' not in str(raised.value)
  assert not list(tmp_path.iterdir())


def test_a_tokenizer_can_be_given(task, kwargs, tmp_path):
  given = kwargs['workdir']
  kept = data.make_vocabulary(given, [], 300)
  data.save_vocabulary(tmp_path, kept)
  assert kept[1:] == data.load_tokenizer(tmp_path)[1:] == (BOS, EOS)
  with pytest.raises(ValueError, match='text 0: token .* below vocab_size=9'):
    windows.encode(data.make_vocabulary(given, [], 9), ['fine film'], None, 9)


@needs_shared
def test_real_reviews_are_distinct():
  path = SHARED / 'sentiment' / 'imdb-train-8k.jsonl.gz'
  texts, labels = sentiment.read(path, 'text_label')
  assert len(texts) == len(set(texts)) == len(labels) == 7994
