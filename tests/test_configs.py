"""Every config runs, at a size of seconds."""

import json
import pathlib
import re

import pytest

from align_jax.lab import sweep
from configs import (
  ahmadian_tldr,
  base,
  gao_tldr,
  gsm8k_llama3_2_1b,
  hh,
  lanchantin_chat,
  llama3_2_1b_ultrafeedback,
  llama3_8b_ultrafeedback,
  llama3_70b_ultrafeedback,
  pythia_1b_tldr,
  qwen2_5_0_5b_hh,
  rafailov_tldr,
  sentiment,
  tajwar_alpacafarm,
  tang_tldr,
  toy,
  toy_learned_gold,
  ultrafeedback,
)
from experiments import common, online_vs_offline

WORDS = {1: 'a lovely warm film that I enjoyed', 0: 'a dull cold film, bored'}


def reviews(path):
  """Forty different reviews, a line each."""
  with path.open('w') as file:
    for i in range(40):
      text = ' '.join([f'{i}', WORDS[i % 2], f'{i * i}', WORDS[i % 2], 'end.'])
      file.write(json.dumps(dict(text=text, label=i % 2)) + '\n')
  return str(path)


def test_sentiment_runs_under_smoke(tmp_path):
  c = base.smoke(sentiment.get_config())
  c.task.update(
    data=reviews(tmp_path / 'reviews.jsonl'),
    prompts=16,
    eval_prompts=4,
    heldout_reviews=8,
    completion_len=6,
    sft_len=6,
    judge_len=8,
    judge_steps=2,
    judge_batch_size=8,
  )
  small = dict(dim=16, num_layers=1, num_heads=2, head_dim=8, mlp_dim=16)
  c.model.update(vocab_size=300, num_kv_heads=1, **small)
  c.task.judge_model.update(num_kv_heads=2, **small)
  c.seeds = 1
  cfg = common.as_dict(c)
  cfg['arms'] = {name: cfg['arms'][name] for name in ('offline', 'online')}
  for arm in cfg['arms'].values():
    arm['sweep'] = arm['sweep'][:1]
  common.experiment(
    online_vs_offline.runs, online_vs_offline.report, cfg, tmp_path
  )
  page = (tmp_path / 'report.html').read_text()
  assert 'Samples side by side' in page or 'No verdict' in page
  points = (tmp_path / 'points.jsonl').read_text().splitlines()
  assert {json.loads(p)['arm'] for p in points} == {'offline', 'online'}


MODULES = [toy, toy_learned_gold, sentiment, hh, ultrafeedback]
MODULES += [pythia_1b_tldr, tang_tldr, rafailov_tldr, qwen2_5_0_5b_hh]
MODULES += [gao_tldr, ahmadian_tldr, lanchantin_chat]
MODULES += [tajwar_alpacafarm, gsm8k_llama3_2_1b, llama3_2_1b_ultrafeedback]
MODULES += [llama3_8b_ultrafeedback, llama3_70b_ultrafeedback]


@pytest.mark.parametrize('module', MODULES)
def test_a_config_sets_no_field_that_base_lacks(module):
  known = set(base.get_config())
  assert set(module.get_config()) == known
  cfg = common.as_dict(module.get_config())
  # Arms that are compared have as many configurations.
  common.check(cfg, online_vs_offline.runs(cfg))


def test_variants_of_the_docs_are_accepted():
  text = (pathlib.Path(__file__).parents[1] / 'docs/pipelines.md').read_text()
  blocks = re.findall(r'```python\n(c\.variants = .*?)```', text, re.DOTALL)
  assert len(blocks) == 2
  for block in blocks:
    c = toy.get_config()
    c.proxy.verifier = 'bow'
    exec(block, {'c': c})
    runs = sweep.sweep(common.as_dict(c))
    assert {run.variant for run in runs} == set(c.variants)


NUMERICS = 'dtype', 'param_dtype', 'attention', 'remat'


@pytest.mark.parametrize('module', MODULES)
def test_policies_of_several_sizes_compute_alike(module):
  """What a variant says of `model` as a whole would drop its other fields."""
  cfg = common.as_dict(module.get_config())
  runs = sweep.sweep({**cfg, 'seeds': 1})
  sized = [r for r in runs if r.shared.proxy.verifier == 'sized']
  models = [r.shared.model for r in runs]
  models += [r.shared.proxy.model for r in sized]
  assert len({repr([x.get(name) for name in NUMERICS]) for x in models}) == 1


def test_the_verifier_is_one_flag_away():
  cfg = common.as_dict(toy.get_config())
  cfg['proxy']['verifier'] = 'transformer'
  common.check(cfg, sweep.sweep(cfg))
