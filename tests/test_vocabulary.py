"""Ids that are no tokens, tokens without a row, and several ends of texts."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_checkpoints
from conftest import SIZES

from align_jax import data, ops
from align_jax.data.row import RowError
from align_jax.learn import truncated
from align_jax.models import hf, initial, vocabulary
from align_jax.models.config import ModelConfig
from align_jax.models.interface import of
from align_jax.policy import programs, sampling, scoring
from align_jax.tasks import pair_folder

PROMPTS = jnp.ones((2, 3), jnp.int32), jnp.ones((2, 3), bool)
GAPS = ((3, 5), (7, 11))  # a hole, and rows at the end
CONFIG = ModelConfig(vocab_size=11, num_layers=1, no_tokens=GAPS, **SIZES)
FORBIDDEN = [3, 4, 7, 8, 9, 10]
LIVE = [0, 1, 2, 5, 6]


@pytest.fixture(scope='module')
def policies():
  """Two that would mostly draw what is no token."""
  open_ = dataclasses.replace(CONFIG, no_tokens=())
  return [of(open_).init(jax.random.key(i), open_) for i in range(2)]


def draw(params, config=CONFIG, **how):
  key, static = jax.random.key(1), dict(group_size=16, max_new_tokens=6)
  f = functools.partial(sampling.sample, config=config, **static, **how)
  return jax.jit(f)(params, *PROMPTS, key)


@pytest.mark.parametrize(
  'ids, size, gaps',
  [
    (range(4), 4, ()),
    (range(4), 9, ((4, 9),)),
    ([0, 1, 4, 6], 8, ((2, 4), (5, 6), (7, 8))),
    ([1, 2, 5, 700], 6, ((0, 1), (3, 5))),  # 700 has no row
  ],
)
def test_gaps_are_the_ids_without_a_token(ids, size, gaps):
  assert vocabulary.gaps(ids, size) == gaps


def test_a_model_s_own_gaps_stay():
  tokenizer = data.train_tokenizer((), 259)
  wide = ModelConfig(vocab_size=300, num_layers=1, **SIZES)
  assert vocabulary.only_tokens(wide, tokenizer).no_tokens == ((259, 300),)
  own = dataclasses.replace(wide, no_tokens=((4, 6), (290, 295)))
  found = vocabulary.only_tokens(own, tokenizer)
  assert found.no_tokens == ((4, 6), (259, 300))
  assert vocabulary.only_tokens(object, tokenizer) is object


def test_ids_without_a_token_are_never_drawn(policies):
  free = draw(policies[0], dataclasses.replace(CONFIG, no_tokens=()))
  assert np.isin(free.completions, FORBIDDEN).mean() > 0.1
  drawn = draw(policies[0])
  assert not np.isin(drawn.completions, FORBIDDEN).any()
  mixed = draw(policies[0], other_params=policies[1], share=0.0)
  np.testing.assert_array_equal(mixed.completions, drawn.completions)
  logps = scoring.token_logps(policies[0], drawn, config=CONFIG)
  np.testing.assert_allclose(drawn.sampler_logps, logps, atol=1e-4)


def test_scores_and_kls_are_of_the_tokens_alone(policies):
  batch = draw(policies[0])
  kls, _ = programs.policy_programs(CONFIG).kls(*policies, batch)
  entropies = scoring.token_entropies(policies[0], batch, config=CONFIG)
  open_ = dataclasses.replace(CONFIG, no_tokens=())
  logits = [
    of(open_).logits(
      scoring.predicting_states(p, open_, batch),
      of(open_).head_weights(p, open_),
      open_,
    )[..., jnp.array(LIVE)]
    for p in policies
  ]
  np.testing.assert_allclose(kls, ops.token_kl(*logits), atol=1e-5)
  np.testing.assert_allclose(entropies, ops.entropy(logits[0]), atol=1e-5)
  assert (kls > 0).all()


def test_the_gradient_leaves_them_alone(policies):
  batch = draw(policies[0])

  def total(head):
    params = {**policies[0], 'embed': head}
    return scoring.compare(params, policies[1], batch, config=CONFIG)[0].sum()

  gradient = jax.grad(total)(policies[0]['embed'])
  assert jnp.isfinite(gradient).all()
  # An untouched embedding is read and written by nothing.
  assert (gradient[jnp.array(FORBIDDEN)] == 0).all()
  assert (jnp.abs(gradient[jnp.array(LIVE)]).max(1) > 0).all()


@pytest.mark.parametrize('rows', [9, 0, -2], ids=['more', 'as many', 'fewer'])
def test_a_checkpoint_knows_its_tokens(tmp_path, rows):
  """More rows than tokens, or an added token that has no row."""
  folder = tiny_checkpoints.make(tmp_path / 'x', 'qwen2', rows)
  model = hf.load(folder)
  size = data.load_tokenizer(folder, needs_bos=False).tokenizer.get_vocab_size()
  assert model.config.vocab_size == size + rows
  gaps = ((size, size + rows),) if rows > 0 else ()
  assert model.config.no_tokens == gaps
  assert hf.load(folder, no_tokens=()).config.no_tokens == ()


def test_a_tokenizer_with_holes(tmp_path):
  folder = tiny_checkpoints.make(tmp_path / 'x', 'llama')
  path = folder / 'tokenizer.json'
  tokenizer = json.loads(path.read_text('utf-8'))
  bytes_ = tokenizer['model']['vocab']
  tokenizer['model']['vocab'] = {k: v for k, v in bytes_.items() if v != 100}
  path.write_text(json.dumps(tokenizer), 'utf-8')
  # The added tokens close up, so the last row has none.
  size = len(bytes_) + 5
  gaps = ((100, 101), (size - 1, size))
  assert hf.load(folder).config.no_tokens == gaps


def test_a_row_that_needs_a_token_without_numbers_is_named(tmp_path):
  """Rows that do not are as they were."""
  folder = tiny_checkpoints.make(tmp_path / 'x', 'llama', -1)
  loaded = data.load_tokenizer(folder)
  size = loaded.tokenizer.get_vocab_size() - 1
  encode = functools.partial(data.check_ids, loaded.tokenizer, size=size)
  encode(ids=[0, size - 1], where='f.jsonl row 1')
  encode(ids=[], where='f.jsonl row 1')
  for ids in ([size], [0, size, 1]):
    message = rf"f.jsonl row 2: token '<\|eot_id\|>' has id {size}, expected"
    with pytest.raises(RowError, match=message):
      encode(ids=ids, where='f.jsonl row 2')
  encoder = data.make_encoder(loaded, None, size=size)
  assert encoder.size == size


# --- Ends ---------------------------------------------------------------------


def ends_of(tmp_path, generation, config):
  for name, found in (
    ('generation_config.json', generation),
    ('config.json', config),
  ):
    if found is not None:
      (tmp_path / name).write_text(json.dumps(found), 'utf-8')
  return vocabulary.ends(tmp_path)


@pytest.mark.parametrize(
  'generation, config, ends',
  [
    ({'eos_token_id': [5, 6]}, {'eos_token_id': 7}, (5, 6)),
    ({'eos_token_id': 5}, {'eos_token_id': [6, 7]}, (5,)),
    ({'top_k': 1}, {'eos_token_id': [6, 7]}, (6, 7)),
    (None, {'eos_token_id': 6}, (6,)),
    (None, {}, ()),
    (None, None, ()),
  ],
)
def test_ends_are_those_of_generate(tmp_path, generation, config, ends):
  assert ends_of(tmp_path, generation, config) == ends


@pytest.mark.parametrize('wrong', ['</s>', [1, None], 2.0, True, [-1], [[1]]])
def test_ends_that_are_no_ids_are_named(tmp_path, wrong):
  with pytest.raises(
    ValueError, match='n_config.json: eos_token_id=.*expected'
  ):
    ends_of(tmp_path, {'eos_token_id': wrong}, {})


def test_ends_join_the_task_s():
  assert vocabulary.all_ends(3, ()) == vocabulary.all_ends(3, (3,)) == 3
  assert vocabulary.all_ends(3, (7, 3, 5)) == (3, 7, 5)
  assert vocabulary.all_ends((3, 7), (5, 7)) == (3, 7, 5)
  assert vocabulary.all_ends(None, (7,)) is None
  assert initial.ends({'dim': 3}) == ()


@pytest.mark.parametrize('name', ['', 'tokenizer.json'])
def test_a_task_keeps_the_ends_of_its_tokenizer(tmp_path, name):
  """The tokenizer is a folder, or a file in one."""
  folder, kept = tmp_path / 'x', tmp_path / 'kept'
  tiny_checkpoints.make(folder, 'llama')
  kept.mkdir()
  how = json.dumps({'eos_token_id': [9, 260]})
  (folder / 'generation_config.json').write_text(how, 'utf-8')
  loaded = data.load_tokenizer(folder / name)
  pair_folder._keep_tokenizer(kept, str(folder / name), loaded, None)
  assert vocabulary.ends(kept) == (9, 260)
  assert data.load_tokenizer(kept)[1:] == loaded[1:]


@pytest.mark.parametrize('slots', [0, 8])
def test_sampling_stops_at_each_end(policies, slots):
  sample = functools.partial(draw, policies[0])
  if slots:

    def sample(**how):
      f = functools.partial(sampling.sample_many, slots=slots, **how)
      static = dict(config=CONFIG, group_size=16, max_new_tokens=6)
      return jax.jit(functools.partial(f, **static))(
        policies[0], *PROMPTS, jax.random.key(1)
      )

  free = np.asarray(sample().completions)
  ends = (5, 2)
  over = np.isin(free, ends)
  length = np.where(over.any(1), over.argmax(1) + 1, 6)
  valid = np.arange(6) < length[:, None]
  for stop in (dict(eos_id=ends), dict(eos_id=5, stop_tokens=jnp.array([2]))):
    batch = sample(**stop)
    np.testing.assert_array_equal(batch.valid, valid)
    np.testing.assert_array_equal(batch.completions, np.where(valid, free, 0))
  assert {*free[over]} == {*ends}
  cut = truncated.unfinished(batch, programs.Sampling().ends(ends))
  np.testing.assert_array_equal(cut, ~over.any(1))
  more = programs.Sampling(stop_tokens=(6,)).ends(ends)
  assert more.tolist() == [5, 2, 6]
