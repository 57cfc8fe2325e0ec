"""A judge against people, whose votes are known."""

import json
import pathlib

import numpy as np
import pytest
from conftest import SHARED, needs_shared

from align_jax import judges
from align_jax.data.messages import said
from align_jax.data.row import Counts
from align_jax.judges import pairwise
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


def said_by(orders):
  """What a judge with two labels says, of its chances in either order."""
  return agreement.Asked(orders, 0.5 + 0.5 * np.sign(orders - 0.5), None)


def test_what_is_counted():
  """Of five pairs one is a tie by majority; of three annotators two agree."""
  judged = rows((1, 1, 0), (0, 0, 0.5), (0.5, 0.5, 1), (1, 1, 1), (0, 0, 1))
  orders = np.array(
    [[0.9, 0.6], [0.9, 0.2], [0.9, 0.4], [0.4, 0.3], [0.3, 0.3]]
  )
  got = {k: v[0] for k, v in agreement.figures(judged, said_by(orders)).items()}
  want = {
    'agrees, where people prefer one': 2 / 4,  # 0.55 says first of the second
    'agrees, ties too': 3 / 5,
    'agrees with one annotator, ties too': (2 + 1 + 2 + 0 + 2) / 15,
    'two annotators agree, ties too': (1 + 1 + 1 + 3 + 1) / 15,
    'calls a tie': 2 / 5,
    'verdict flips with the order': 2 / 5,
    'probability of what is shown first': (3.4 + 5 - 1.8) / 10,
    'judge prefers the longer one': 2 / 4,
    'people prefer the longer one': 2 / 4,
  }
  assert got == pytest.approx(want)


def test_the_page_on_judges_names_every_figure():
  page = (pathlib.Path(__file__).parents[1] / 'docs' / 'judges.md').read_text()
  names = agreement.figures(rows([1.0]), said_by(np.array([[0.9, 0.9]])))
  assert not {name for name in names if f'| {name} |' not in page}


def test_a_likely_label_of_a_tie_is_a_tie():
  """Though the first is likelier than the second, and a tie counts half."""
  shares = np.array([[[0.3, 0.1, 0.6], [0.1, 0.3, 0.6]]] * 2)
  shares[1, 1] = 0.1, 0.8, 0.1  # of the second pair one order says the first
  judge = pairwise.Pairwise(lambda *rows: next(labels))
  labels = iter(np.moveaxis(np.log(shares), 1, 0))
  judged = rows([0.5], [1.0])
  asked = agreement.ask(judge, judged)
  assert asked.said.tolist() == [[0.5, 0.5], [0.5, 1]]
  assert (asked.orders > 0.5).all()
  got = {k: v[0] for k, v in agreement.figures(judged, asked).items()}
  assert got['calls a tie'] == 1 and got['agrees, ties too'] == 0.5
  assert got['verdict flips with the order'] == 0.5
  assert got['agrees, where people prefer one'] == 1


def test_a_judge_without_an_opinion_is_half_right():
  judged = rows([1.0], [1.0], [0.0])
  got = agreement.figures(judged, said_by(np.full((3, 2), 0.5)))
  assert got['agrees, where people prefer one'] == (0.5, 0.5, 0.5)
  assert got['agrees, ties too'][0] == 0
  assert np.isnan(got['two annotators agree, ties too'][0])


def test_rounding_is_no_opinion():
  """The two orders of a pair of equal answers add up to one, but for bits."""
  judged = rows([1.0], [0.0])
  near = np.array([[0.6, 0.4 + 3e-8], [0.6, 0.4 - 3e-8]], np.float32)
  got = agreement.figures(judged, said_by(near))
  assert got['agrees, where people prefer one'] == (0.5, 0.5, 0.5)
  assert got['judge prefers the longer one'] == (0.5, 0.5, 0.5)


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_a_judge_that_says_no_number_is_refused(bad):
  def judge(prompts, completions):
    return np.array([bad, 1.0, 0.0, 0.0])

  with pytest.raises(ValueError, match='a judge: 1 of 4 scores are infinite'):
    agreement.ask(judge, rows([1.0], [0.0]))


def test_scores_far_apart_are_certain():
  judge = lambda prompts, completions: np.float32([0, 400, 400, 0])
  orders = agreement.ask(judge, rows([1.0], [0.0])).orders
  np.testing.assert_allclose(orders, [[0, 0], [1, 1]], atol=1e-9)


@pytest.mark.parametrize(
  'flag',
  ['--limit=0', '--limit=-1', '--batch-size=-2', '--max-length=0', '--dtype=x'],
)
def test_flags_that_make_no_sense_are_refused(flag, capsys):
  with pytest.raises(SystemExit) as ended:
    agreement.make_parser().parse_args(['judge', 'pairs.jsonl', flag])
  assert ended.value.code == 2 and flag.split('=')[0] in capsys.readouterr().err


PANDA = {
  'idx': 0,
  'instruction': 'Add.',
  'input': '1 and 2',
  'response1': '3',
  'response2': '4',
  'annotator1': 1,
  'annotator2': 1,
  'annotator3': 2,
}


@pytest.mark.parametrize('name', ['Input', 'inputs', 'INPUT'])
def test_a_misspelt_column_and_a_line_that_is_no_json_are_bad_rows(
  name, tmp_path
):
  wrong = {name if k == 'input' else k: v for k, v in PANDA.items()}
  path, lines = tmp_path / 'pairs.jsonl', [PANDA] * 5
  text = ''.join(json.dumps(x) + '\n' for x in [*lines, wrong])
  path.write_text(text + '{"cut\n', 'utf-8')
  counts = Counts('skip', 0.5)
  assert len(agreement.judged_rows(path, counts)) == 5
  assert counts.rows == 7 and sum(counts.bad.values()) == 2
  assert any(name in reason for reason in counts.bad), counts.bad


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
    ({}, ('--max-length=20',), 'pairs.jsonl row 1 has .*max_length=20'),
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
  got = agreement.figures(found, said_by(np.full((len(found), 2), 0.5)))
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
