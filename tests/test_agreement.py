"""A judge against people, whose votes are known."""

import json
import pathlib

import numpy as np
import pytest
from conftest import SHARED, needs_shared

from align_jax import judges
from align_jax.data.messages import said
from align_jax.data.row import Counts
from align_jax.tools import agreement

FILES = {  # pairs, bad rows
  'alpaca-eval/gpt4-judged-pairs.part-a.jsonl.gz': (3857, 1),
  'human-pairs/autoj-pairwise.part-a.jsonl.gz': (1088, 1),
  'human-pairs/pandalm-testset-v1.jsonl.gz': (938, 61),
  'human-pairs/qa-feedback-dev.part-a.jsonl.gz': (2460, 0),
}


def rows(*votes, prompt=None):
  return [
    dict(
      prompt=[said('user', prompt or f'{i}')],
      first='long answer',
      second='answer',
      votes=list(v),
    )
    for i, v in enumerate(votes)
  ]


def test_what_is_counted():
  """Of five pairs one is a tie by majority; of three annotators two agree."""
  judged = rows((1, 1, 0), (0, 0, 0.5), (0.5, 0.5, 1), (1, 1, 1), (0, 0, 1))
  orders = np.array(
    [[0.9, 0.6], [0.9, 0.2], [0.9, 0.4], [0.4, 0.3], [0.3, 0.3]]
  )
  got = {k: v[0] for k, v in agreement.figures(judged, orders).items()}
  want = {
    'agrees, where people prefer one': 2 / 4,  # 0.55 says first of the second
    'agrees, ties too': 3 / 5,
    'agrees with one annotator, ties too': (2 + 1 + 2 + 0 + 2) / 15,
    'two annotators agree, ties too': (1 + 1 + 1 + 3 + 1) / 15,
    'calls a tie (the orders differ)': 2 / 5,
    'verdict flips with the order': 2 / 5,
    'probability of what is shown first': (3.4 + 5 - 1.8) / 10,
    'judge prefers the longer one': 2 / 4,
    'people prefer the longer one': 2 / 4,
  }
  assert got == pytest.approx(want)


def test_the_page_on_judges_names_every_figure():
  page = (pathlib.Path(__file__).parents[1] / 'docs' / 'judges.md').read_text()
  names = agreement.figures(rows([1.0]), np.array([[0.9, 0.9]]))
  assert not {name for name in names if f'| {name} |' not in page}


def test_a_judge_without_an_opinion_is_half_right():
  judged = rows([1.0], [1.0], [0.0])
  got = agreement.figures(judged, np.full((3, 2), 0.5))
  assert got['agrees, where people prefer one'] == (0.5, 0.5, 0.5)
  assert got['agrees, ties too'][0] == 0
  assert np.isnan(got['two annotators agree, ties too'][0])


def test_pairs_of_one_prompt_count_as_one_for_the_interval():
  """Four hundred copies of two prompts say no more than two."""
  hits = np.tile([1.0, 0.0], 400)
  every = np.ones(800, bool)
  share, low, high = agreement.interval(hits, every, np.arange(800))
  assert share == 0.5 and 0.45 < low < 0.48 and 0.52 < high < 0.55
  clustered = agreement.interval(hits, every, np.arange(800) % 2)
  assert clustered == (0.5, 0.0, 1.0)


def test_the_interval_holds_the_truth_as_often_as_it_says():
  rng = np.random.default_rng(0)
  held = 0
  for _ in range(200):
    hits = (rng.random(100) < 0.7).astype(float)
    _, low, high = agreement.interval(hits, hits >= 0, np.arange(100))
    held += low <= 0.7 <= high
  assert 180 <= held <= 198


def test_a_reward_model_judges_by_bradley_terry():
  score = lambda prompts, texts: np.array([len(t) for t in texts], np.float32)
  asked = agreement.ask(score, rows([1.0], [0.0]))
  np.testing.assert_allclose(asked.orders, 1 / (1 + np.exp(-5.0)), rtol=1e-6)
  assert asked.mass is None


def write(path, number, **fields):
  row = dict(instruction='Say a word', output_1='cat', output_2='dog')
  many = [{**row, 'preference': 1 + i % 2, **fields} for i in range(number)]
  path.write_text(''.join(json.dumps(x) + '\n' for x in many))
  return str(path)


@pytest.mark.parametrize('kind', sorted(judges.JUDGES))
def test_the_command_prints_what_was_found(
  causal,
  scalar,
  kind,
  tmp_path,
  capsys,
):
  path = write(tmp_path / 'pairs.jsonl', 4)
  folder = causal if kind == 'llm_judge' else scalar
  agreement.main([str(folder), path, f'--kind={kind}', '--max-length=256'])
  out = capsys.readouterr().out
  assert out.startswith('4 pairs; 0 of 4 rows were bad')
  # The same pair each time, and votes that cancel.
  assert '0.500 [0.500, 0.500]  agrees, where people prefer one' in out
  assert ('a label is the answer' in out) == (kind == 'llm_judge')


@pytest.mark.parametrize(
  'fields, more, said_',
  [
    (dict(preference=7), (), '4 of 4 rows are bad'),
    (dict(output_1=''), (), '4 of 4 rows are bad'),
    ({}, ('--ties', '--kind=reward_model'), '--ties is for'),
    ({}, ('--max-length=20',), 'more than max_length=20'),
  ],
)
def test_mistakes_are_one_line(
  causal,
  fields,
  more,
  said_,
  tmp_path,
):
  path = write(tmp_path / 'pairs.jsonl', 4, **fields)
  with pytest.raises(SystemExit, match=said_):
    agreement.main([str(causal), path, *more])
  texts = tmp_path / 'texts.jsonl'
  texts.write_text('{"text": "a"}\n')
  with pytest.raises(SystemExit, match=r"columns \['text'\] are no judged pai"):
    agreement.main([str(causal), str(texts)])


@needs_shared
@pytest.mark.parametrize('name', FILES)
def test_real_people_are_read_with_their_ties(name):
  counts = Counts('skip', 0.1)
  found = agreement.judged_rows(SHARED / name, counts)
  assert (len(found), sum(counts.bad.values())) == FILES[name]
  assert counts.balanced()
  votes = {len(row['votes']) for row in found}
  assert votes == ({3} if 'pandalm' in name else {1})
  assert {v for row in found for v in row['votes']} == {0.0, 0.5, 1.0}
  got = agreement.figures(found, np.full((len(found), 2), 0.5))
  assert got['agrees, where people prefer one'] == (0.5, 0.5, 0.5)


@needs_shared
def test_a_judge_of_real_pairs(judge):
  path = SHARED / 'human-pairs' / 'pandalm-testset-v1.jsonl.gz'
  found = agreement.judged_rows(path, Counts('skip', 0.1), limit=4)
  asked = agreement.ask(judge, found)
  assert asked.orders.shape == (4, 2) and (asked.mass < 1).all()
  swapped = [{**r, 'first': r['second'], 'second': r['first']} for r in found]
  again = agreement.ask(judge, swapped).orders
  np.testing.assert_allclose(asked.orders + again[:, ::-1], 1, atol=1e-5)
