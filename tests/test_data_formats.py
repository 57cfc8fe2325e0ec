"""Row formats, and readers of known data sets."""

import pathlib

import pytest
from conftest import SHARED, needs_shared

from align_jax import data
from align_jax.data import (
  comparisons,
  detection,
  files,
  formats,
  named_templates,
  pipeline,
  readers,
  shards,
)
from align_jax.data.examples import (
  ALTERED,
  make_encoder,
)
from align_jax.data.row import Counts

USER = [dict(role='user', content='q')]
A, B = ([dict(role='assistant', content=x)] for x in 'ab')


def example(**fields):
  row = data.Row(fields, 'x row 1')
  (made,) = readers.DATASETS[detection.detect(row)]([row])
  made = data.Row(made, 'x row 1')
  return formats.FORMATS[formats.detect(made)][1](made)


@pytest.mark.parametrize(
  'row, prompt, completions, rewards',
  [
    (dict(text='a b'), '', ['a b'], [1]),
    (dict(prompt='a', id=3), 'a', [], []),
    (dict(prompt=USER), USER, [], []),
    (dict(prompt='a', completion=' b'), 'a', [' b'], [1]),
    (dict(prompt=USER, completion=A), USER, [A], [1]),
    (dict(prompt='a', completion=' b', label=False), 'a', [' b'], [0]),
    (dict(prompt=USER, completion=A, label=True), USER, [A], [1]),
    (dict(messages=USER + A, label=False), USER, [A], [0]),
    (dict(messages=USER + A + USER + B), USER, [A + USER + B], [1]),
    (dict(prompt='a', chosen='b', rejected='c'), 'a', ['b', 'c'], [1, 0]),
    (dict(prompt=USER, chosen=A, rejected=B), USER, [A, B], [1, 0]),
    (dict(chosen=USER + A, rejected=USER + B), USER, [A, B], [1, 0]),
    (dict(chosen='is 12', rejected='is 13'), 'is', [' 12', ' 13'], [1, 0]),
    (dict(chosen='a b', rejected='a b c'), 'a', [' b', ' b c'], [1, 0]),
    (dict(chosen='a b\nc', rejected='a b d'), 'a b', ['\nc', ' d'], [1, 0]),
    (
      dict(prompt='a', completions=['b', 'c', 'd'], scores=[0.5, -2, 1]),
      'a',
      ['b', 'c', 'd'],
      [0.5, -2, 1],
    ),
  ],
)
def test_formats(row, prompt, completions, rewards):
  found = example(**row)
  assert (found.prompt, found.completions) == (prompt, completions)
  assert found.rewards == rewards and found.where == 'x row 1'


@pytest.mark.parametrize(
  'row, said',
  [
    (dict(a=1), r"columns \['a'\] are of no known format"),
    (dict(chosen='ab', rejected='ac'), 'share no beginning'),
    (dict(chosen=USER + A, rejected=A), 'follows nothing'),
    (
      dict(chosen=USER + A, rejected=USER + A + USER + B),
      "shared beginning ends with 'assistant'|nothing after|share no beginning",
    ),
    (dict(prompt='a', completion='b', label=1), "'label' is 1, expected bool"),
    (dict(prompt='a', completions=['b'], scores=[]), 'expected as many'),
    (dict(prompt='a', completions=['b'], scores=[None]), 'expected a finite n'),
    (dict(prompt='a', completions=[' '], scores=[1]), 'item 1 is empty'),
    (dict(prompt='a', completions=['b'], labels=[True]), 'stepwise superv'),
    (dict(prompt=USER, chosen=A, rejected='b'), "'b', expected list"),
    (dict(prompt=USER, chosen=A, rejected=A + USER), "ends with 'user'"),
    (dict(prompt=USER, completion=USER), 'follows user, expected assistant'),
    (dict(messages=USER + A, tools='x'), "'tools' is 'x', expected list"),
  ],
)
def test_no_format(row, said):
  with pytest.raises(data.RowError, match=f'x row 1: .*{said}'):
    example(**row)


HH = '\n\nHuman: hi\n\nAssistant: hello\n\nHuman: bye\n\nAssistant:'


@pytest.mark.parametrize(
  'row, name, format, prompt, completions',
  [
    (
      dict(chosen=f'{HH} a', rejected=f'{HH} b'),
      'hh',
      'preference',
      ['hi', 'hello', 'bye'],
      ['a', 'b'],
    ),
    (
      dict(prompt='q', chosen=USER + A, rejected=USER + B, score_chosen=9),
      'ultrafeedback',
      'preference',
      ['q'],
      ['a', 'b'],
    ),
    (
      dict(
        instruction='q',
        completions=[
          dict(response='a', overall_score=7.5),
          dict(response='b', overall_score=1),
        ],
      ),
      'ultrafeedback_scores',
      'scored',
      ['q'],
      ['a', 'b'],
    ),
    (
      dict(instruction='q', input='', output_1='b', output_2='a', preference=2),
      'alpaca_pairs',
      'preference',
      ['q'],
      ['a', 'b'],
    ),
    (
      dict(instruction='q', input='x', output='a'),
      'alpaca',
      'prompt_completion',
      ['q\n\nx'],
      ['a'],
    ),
    (
      dict(
        conversations=[{'from': 'human', 'value': 'q'}],
        chosen={'from': 'gpt', 'value': 'a'},
        rejected={'from': 'gpt', 'value': 'b'},
      ),
      'sharegpt',
      'preference',
      ['q'],
      ['a', 'b'],
    ),
    (dict(turns=['q', 'x']), 'questions', 'prompt', ['q'], []),
    (
      dict(question_id=1, choices=[dict(turns=['a', 'x'])]),
      'reference_answers',
      'text',
      '',
      ['a'],
    ),
    (
      dict(instruction='q', instances=[dict(input='x', output='a')]),
      'alpaca_seeds',
      'prompt_completion',
      ['q\n\nx'],
      ['a'],
    ),
    (
      dict(instruction='q', input='', response1='b', response2='a')
      | dict(annotator1=2, annotator2=1, annotator3=2),
      'pandalm',
      'preference',
      ['q'],
      ['a', 'b'],
    ),
    (
      {'prompt': 'q', 'response 1': 'a', 'response 2': 'b', 'label': 0},
      'autoj',
      'preference',
      ['q'],
      ['a', 'b'],
    ),
    (
      dict(prompt='x\nTL;DR:', reference='a', samples={}),
      'tldr',
      'prompt_completion',
      'x\nTL;DR:',
      [' a'],
    ),
    (
      dict(
        info=dict(subreddit='s', title='t', post='p'),
        summaries=[dict(text=' b'), dict(text='a')],
        choice=1,
      ),
      'tldr_comparisons',
      'preference',
      'SUBREDDIT: r/s\nTITLE: t\nPOST: p\nTL;DR:',
      [' a', ' b'],
    ),
    (
      dict(question='q', answer='1\n#### 1'),
      'gsm8k',
      'prompt_completion',
      'q\n',
      ['1\n#### 1'],
    ),
  ],
)
def test_readers(row, name, format, prompt, completions):
  assert detection.detect(row) == name
  found = example(**row)

  def said(text):
    return text if isinstance(text, str) else [m['content'] for m in text]

  assert found.format == format and said(found.prompt) == prompt
  got = [said(x) for x in found.completions]
  assert got == [x if x in got else [x] for x in completions]


def test_the_majority_of_votes():
  """A single vote against two ties, and one of each kind, decide nothing."""
  for votes, want in (
    ([1.0], 1.0),
    ([0.0, 1.0, 0.0], 0.0),
    ([0.5, 1.0, 0.5], 0.5),
    ([0.5, 1.0, 1.0], 1.0),
    ([0.5, 1.0, 0.0], 0.5),
    ([1.0, 0.0], 0.5),
  ):
    assert comparisons.majority(votes) == want, votes


def test_four_predictions_are_compared_in_six_pairs():
  row = {f'prediction {i}': f'p{i}' for i in range(1, 5)}
  row |= dict(
    question='q', passages=[['t', 's']], preference=[1, 2, 0, 2, 1, 1]
  )
  (*made,) = readers.DATASETS['qa_feedback']([data.Row(row, 'x')])
  pairs = [x if isinstance(x, str) else side_texts(x) for x in made]
  assert pairs[:3] == [('p1', 'p2'), ('p3', 'p1'), 'a tie']
  assert pairs[3:] == [('p3', 'p2'), ('p2', 'p4'), ('p3', 'p4')]
  assert made[0]['prompt'][0]['content'] == 'q\n\nt\ns'
  row['preference'] = [1]
  with pytest.raises(data.RowError, match='has 1 items, expected 6'):
    list(readers.DATASETS['qa_feedback']([data.Row(row, 'x')]))


def side_texts(row):
  return tuple(row[x][0]['content'] for x in ('chosen', 'rejected'))


def test_a_vote_that_is_no_choice_is_named():
  row = dict(instruction='q', output_1='a', output_2='b', preference=3)
  said = "x: field 'preference' is 3, expected one of 1, 2, 0, 1.5"
  with pytest.raises(data.RowError, match=said):
    list(readers.DATASETS['alpaca_pairs']([data.Row(row, 'x')]))


def test_scores_as_rewards():
  row = dict(prompt='a', chosen='b', rejected='c')
  row |= dict(score_chosen=8, score_rejected=2.5)
  (made,) = readers.DATASETS['scored_pairs']([data.Row(row, 'x')])
  assert formats.scored(made).rewards == [8, 2.5]
  row['score_chosen'] = float('inf')
  with pytest.raises(data.RowError, match="x: field 'score_chosen' is inf"):
    list(readers.DATASETS['scored_pairs']([data.Row(row, 'x')]))


# --- Real files --------------------------------------------------------------

ROWS = {  # as the README beside them has it, and how many of them are bad
  'alpaca-eval/gpt4-judged-pairs.part-a.jsonl.gz': (3858, 1),
  'demo/dpo-en-demo.json': (300, 0),
  'demo/kto-en-demo.json': (300, 0),
  'demo/toolcall-en-demo.json': (300, 0),
  'formats/language_modeling.conversational.jsonl': (3, 0),
  'formats/language_modeling.standard.jsonl': (4, 0),
  'formats/preference.conversational.explicit.jsonl': (4, 0),
  'formats/preference.conversational.implicit.jsonl': (4, 0),
  'formats/preference.standard.explicit.jsonl': (4, 0),
  'formats/preference.standard.implicit.jsonl': (4, 0),
  'formats/preference.with_scores_and_extras.jsonl': (4, 0),
  'formats/prompt_completion.conversational.jsonl': (4, 0),
  'formats/prompt_completion.standard.jsonl': (4, 0),
  'formats/prompt_only.conversational.jsonl': (4, 0),
  'formats/prompt_only.standard.jsonl': (4, 0),
  'formats/stepwise_supervision.standard.jsonl': (2, 2),
  'formats/tool_calling.conversational.jsonl': (2, 0),
  'formats/unpaired_preference.conversational.jsonl': (8, 0),
  'formats/unpaired_preference.standard.jsonl': (8, 0),
  'gsm8k/train.jsonl.gz': (7473, 0),
  'hh-rlhf/harmless-base.part-a.jsonl.gz': (1745, 11),
  'human-pairs/autoj-pairwise.part-a.jsonl.gz': (1089, 1),
  'human-pairs/pandalm-testset-v1.jsonl.gz': (999, 61),
  'human-pairs/qa-feedback-dev.part-a.jsonl.gz': (410, 0),
  'mt-bench/mt_bench.question.jsonl': (80, 0),
  'mt-bench/mt_bench.reference-gpt-4.jsonl': (30, 0),
  'mt-bench/vicuna_bench.question.jsonl': (80, 0),
  'mt-bench/vicuna_bench.reference-gpt-4.jsonl': (10, 0),
  'polite-preference/instruction-preference.part-a.jsonl': (947, 6),
  'sentiment/imdb-train-8k.jsonl.gz': (8000, 0),
  'sentiment/rt-polarity.part-a.jsonl.gz': (9068, 0),
  'sft/alpaca-en-demo.json': (999, 0),
  'sft/alpaca-seed-tasks.jsonl': (175, 0),
  'text/c4-demo.jsonl': (300, 0),
  'text/tinyshakespeare.txt': (40000, 0),
  'text/wikitext-2-valid.txt': (3760, 0),
  'tldr/instructgpt-tldr-samples.part-a.jsonl': (81, 0),
  'ultrafeedback/train_clean.jsonl.gz': (1000, 6),
  'ultrafeedback/train_label_flip_20.jsonl.gz': (1000, 6),
}
TIES = {
  'alpaca-eval/gpt4-judged-pairs.part-a.jsonl.gz': 43,
  'human-pairs/autoj-pairwise.part-a.jsonl.gz': 298,
  'human-pairs/pandalm-testset-v1.jsonl.gz': 103,
  'human-pairs/qa-feedback-dev.part-a.jsonl.gz': 298,
}
KINDS = {  # of rows that could be taken for others
  'hh-rlhf/harmless-base.part-a.jsonl.gz': ('hh', 'preference'),
  'ultrafeedback/train_clean.jsonl.gz': ('ultrafeedback', 'preference'),
  'formats/preference.with_scores_and_extras.jsonl': ('standard', 'preference'),
  'demo/kto-en-demo.json': ('standard', 'unpaired_messages'),
  'human-pairs/autoj-pairwise.part-a.jsonl.gz': ('autoj', 'preference'),
  'human-pairs/pandalm-testset-v1.jsonl.gz': ('pandalm', 'preference'),
  'mt-bench/mt_bench.reference-gpt-4.jsonl': ('reference_answers', 'text'),
  'sft/alpaca-seed-tasks.jsonl': ('alpaca_seeds', 'prompt_completion'),
  'text/tinyshakespeare.txt': ('lines', 'text'),
}


@needs_shared
@pytest.mark.parametrize('name', ROWS)
def test_every_row_of_a_real_file_is_accounted_for(name):
  counts = Counts('skip', 1.0)
  for _ in pipeline.read_examples(SHARED / name, counts=counts):
    counts.kept += 1
  rows, bad = ROWS[name]
  assert (counts.rows, sum(counts.bad.values())) == (rows, bad)
  assert counts.balanced()
  assert counts.more == (5 * rows if 'qa-feedback' in name else 0)
  assert counts.found[:2] == KINDS.get(name, counts.found[:2])
  assert counts.dropped.get('a tie', 0) == TIES.get(name, 0)


@needs_shared
def test_no_real_file_is_left_out():
  found = {str(x.relative_to(SHARED)) for x in SHARED.rglob('*') if x.is_file()}
  other = {x for x in found if x.startswith('tokenizers')}
  assert found - other - {'README.md', 'SHA256SUMS'} == set(ROWS)


@needs_shared
@pytest.mark.parametrize(
  'name, size, bos, eos',
  [
    ('gpt2', 50257, '<|endoftext|>', '<|endoftext|>'),
    ('gpt-neox-20b', 50277, '<|endoftext|>', '<|endoftext|>'),
    ('minimind-6400', 6400, '<|im_start|>', '<|im_end|>'),
    ('mistral-v1', 32000, '<s>', '</s>'),
  ],
)
def test_real_tokenizers_keep_real_rows(name, size, bos, eos):
  folder = SHARED / 'tokenizers' / name
  vocabulary = data.load_tokenizer(folder)
  tokenizer, *ids = vocabulary
  assert [tokenizer.id_to_token(i) for i in ids] == [bos, eos]
  assert tokenizer.get_vocab_size() == size
  template = named_templates.load_template(folder) or named_templates.HH
  encoder = make_encoder(vocabulary, template)
  for file in ('tldr/instructgpt-tldr-samples.part-a.jsonl', *PAIRS):
    counts = Counts('skip', 0.05)
    limits = pipeline.Limits(300, 200, 'drop', 'drop')
    path = SHARED / file
    kept = list(pipeline.read(path, encoder, limits, counts=counts))
    assert counts.balanced() and len(kept) == counts.kept > 0
    assert counts.notes[ALTERED] == 0
    for x in kept:
      assert len(x.prompt) <= 300 and max(map(len, x.completions)) <= 200
      assert all(ids[-1] == vocabulary.eos_id for ids in x.completions)
      assert all(mask[-1] for mask in x.masks)


PAIRS = ['formats/preference.conversational.explicit.jsonl']


def test_the_registry_names_what_it_holds():
  assert all(name == f.__name__ for name, f in readers.DATASETS.items())
  assert set(detection.SIGNATURES) < set(readers.DATASETS)
  assert tuple(files.READERS) == shards.ENDINGS


def test_the_page_on_data_names_all_there_is():
  page = (pathlib.Path(__file__).parents[1] / 'docs' / 'data.md').read_text()
  names = set(formats.FORMATS) - {'stepwise'} | set(files.READERS)
  names |= set(readers.DATASETS) - {'standard'} | set(named_templates.TEMPLATES)
  assert not {name for name in names if f'`{name}`' not in page}
