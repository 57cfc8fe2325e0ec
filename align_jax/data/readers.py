"""Readers of published data sets: generators from their rows to a task's rows.

A generator yields rows in one of `formats.FORMATS`, or rows that a task asks
for. It is given rows one at a time where bad ones are skipped, so it keeps no
state between rows. For each row it may yield any number of rows, or `LeftOut`
with the reason why there is none.
"""

import re

from align_jax.data import comparisons, nested
from align_jax.data.answers import final_answer
from align_jax.data.comparisons import instructed
from align_jax.data.messages import MARKS, MEDIA, said
from align_jax.data.row import (
  LeftOut,
  Row,
  field,
  number,
  place,
  row_error,
  text_field,
  typed,
)

TURN = re.compile(r'\n\n(Human|Assistant):')
SPEAKERS = {'Human': 'user', 'Assistant': 'assistant'}
SHAREGPT = {
  'system': 'system',
  'human': 'user',
  'gpt': 'assistant',
  'function_call': 'assistant',
  'observation': 'tool',
}


def standard(rows):
  """Rows that are in one of the formats already."""
  yield from rows


# --- Conversations -----------------------------------------------------------


def _turns(row, name):
  """A transcript as messages, whose texts may be empty."""
  start, *parts = TURN.split(field(row, name, str))
  if start.strip() or not parts:
    raise row_error(
      row,
      f"field {name!r} is {row[name]!r:.40}, expected '\\n\\nHuman: ...'",
      f'field {name!r} is no transcript',
    )
  return [
    said(SPEAKERS[who], text.removeprefix(' '))
    for who, text in zip(parts[::2], parts[1::2])
  ]


def hh(rows):
  """Transcripts of HH-RLHF (Bai et al. 2022, arXiv 2204.05862).

  `chosen` and `rejected` are the same up to the last answer.
  """
  for row in rows:
    chosen, rejected = _turns(row, 'chosen'), _turns(row, 'rejected')
    if chosen[:-1] != rejected[:-1]:
      raise row_error(row, 'the transcripts differ before their last answer')
    yield Row(
      dict(prompt=chosen[:-1], chosen=chosen[-1:], rejected=rejected[-1:]),
      place(row),
    )


def ultrafeedback(rows):
  """UltraFeedback, binarised (Cui et al. 2023, arXiv 2310.01377).

  `prompt` is a question. `chosen` and `rejected` are answers, or conversations
  of that question and an answer.
  """
  for row in rows:
    asked = [said('user', text_field(row, 'prompt'))]
    made = {k: v for k, v in row.items() if k.startswith('score_')}
    for name in ('chosen', 'rejected'):
      side = row.get(name)
      if isinstance(side, list):
        asked, side = _same_prompt(row, name, asked, side)
      else:
        side = [said('assistant', text_field(row, name))]
      made[name] = side
    yield Row(dict(made, prompt=asked), place(row))


def _same_prompt(row, name, asked, side):
  before = [
    typed(row, f'field {name!r} message', x, dict).get('content') for x in side
  ]
  if before[:-1] != [asked[-1]['content']]:
    raise row_error(
      row,
      f"field {name!r} does not begin with 'prompt', or has no single answer",
    )
  return asked, side[-1:]


def ultrafeedback_scores(rows):
  """UltraFeedback as it was collected: `instruction`, `completions`.

  Each completion has a `response` and an `overall_score`.
  """
  for row in rows:
    found = field(row, 'completions', list)
    found = [typed(row, "field 'completions' item", x, dict) for x in found]
    yield Row(
      dict(
        prompt=[said('user', text_field(row, 'instruction'))],
        completions=[[said('assistant', x.get('response'))] for x in found],
        scores=[x.get('overall_score') for x in found],
      ),
      place(row),
    )


def scored_pairs(rows):
  """Preferences with `score_chosen` and `score_rejected` as rewards."""
  for row in rows:
    sides = [row.get('chosen'), row.get('rejected')]
    names = ('score_chosen', 'score_rejected')
    scores = [number(row, f'field {n!r}', row.get(n)) for n in names]
    yield Row(
      dict(prompt=row.get('prompt'), completions=sides, scores=scores),
      place(row),
    )


def alpaca(rows):
  """Demonstrations (Taori et al. 2023): `instruction`, `input`, `output`."""
  for row in rows:
    answer = said('assistant', text_field(row, 'output'))
    yield Row(dict(prompt=instructed(row), completion=[answer]), place(row))


def alpaca_preference(rows):
  """Preferences with Alpaca's `instruction` and `input` as the prompt."""
  for row in rows:
    sides = {
      name: [said('assistant', text_field(row, name))]
      for name in ('chosen', 'rejected')
    }
    yield Row(dict(sides, prompt=instructed(row)), place(row))


def question_preference(rows):
  """Preferences whose prompt is in `question`, `query` or `input`.

  The answers are texts, or lists of messages that begin with the answer.
  """
  for row in rows:
    made = {name: row.get(name) for name in ('chosen', 'rejected')}
    for name, side in made.items():
      if not isinstance(side, list):
        made[name] = [said('assistant', text_field(row, name))]
    names = _asked(row)
    if len(names) != 1:
      raise row_error(
        row,
        f'the prompt is in one of {QUESTION}, found it in {names}',
        'the prompt is in no one column',
      )
    asked = said('user', text_field(row, names[0]))
    yield Row(dict(made, prompt=[asked]), place(row))


QUESTION = ('question', 'query', 'input')


def _asked(row):
  """The columns of QUESTION that hold a text."""
  return [x for x in QUESTION if isinstance(row.get(x), str) and row[x].strip()]


def alpaca_seeds(rows):
  """Seed tasks (Wang et al. 2022, arXiv 2212.10560), one row per instance.

  The fields are `instruction` and `instances`. Each instance has an `input`,
  which may be empty, and an `output`.
  """
  for row in rows:
    for found in field(row, 'instances', list):
      typed(row, "field 'instances' item", found, dict)
      made = Row(dict(found, instruction=row.get('instruction')), place(row))
      yield from alpaca([made])


def sharegpt(rows):
  """`conversations` of `from` and `value`, or with `chosen`, `rejected`."""
  for row in rows:
    turns = field(row, 'conversations', list)
    found = [_sharegpt_turn(row, 'conversations', x) for x in turns]
    made = dict(messages=found)
    if 'chosen' in row:
      sides = {
        name: [_sharegpt_turn(row, name, row.get(name))]
        for name in ('chosen', 'rejected')
      }
      made = dict(sides, prompt=found)
    yield Row(made, place(row))


def _sharegpt_turn(row, name, turn):
  typed(row, f'field {name!r} turn', turn, dict)
  who, text = turn.get('from'), turn.get('value')
  if type(who) is not str or who not in SHAREGPT:
    raise row_error(
      row,
      f'field {name!r}: from {who!r}, expected one of {list(SHAREGPT)}',
      f'field {name!r}: from',
    )
  kept = {k: turn[k] for k in (*MARKS, *MEDIA) if k in turn}
  if who != 'function_call':
    return {**said(SHAREGPT[who], text), **kept}
  typed(row, f'field {name!r} call', text, str)
  call = nested.parse(text, f'{place(row)}: field {name!r} call')
  calls = call if isinstance(call, list) else [call]
  calls = [{'type': 'function', 'function': x} for x in calls]
  return {'role': 'assistant', 'tool_calls': calls, **kept}


def questions(rows):
  """MT-Bench (Zheng et al. 2023, arXiv 2306.05685): the first of `turns`."""
  for row in rows:
    turns = field(row, 'turns', list)
    if not turns:
      raise row_error(row, "field 'turns' is empty")
    yield Row(dict(prompt=[said('user', turns[0])]), place(row))


def reference_answers(rows):
  """MT-Bench's reference answers: the first turn of the first of `choices`.

  The question is in another file, under the same `question_id`.
  """
  for row in rows:
    turns = [
      typed(row, "field 'choices' item", x, dict).get('turns')
      for x in field(row, 'choices', list)[:1]
    ]
    if not turns or not typed(row, "field 'choices' turns", turns[0], list):
      raise row_error(row, "field 'choices' has no turns")
    made = dict(text=turns[0][0], question_id=field(row, 'question_id', int))
    yield Row(made, place(row))


# --- Judged pairs: ties are left out -----------------------------------------


def _preferences(name, rows):
  for row in rows:
    yield from comparisons.preferences(comparisons.COMPARISONS[name](row))


def alpaca_pairs(rows):
  """AlpacaFarm and AlpacaEval (Dubois et al. 2023, arXiv 2305.14387).

  The fields are `instruction`, perhaps `input`, `output_1`, `output_2`, and
  `preference`: 1 or 2 is the better output, 0 or 1.5 a tie.
  """
  return _preferences('alpaca_pairs', rows)


def pandalm(rows):
  """PandaLM's test set (Wang et al. 2023, arXiv 2306.05087), by majority.

  The fields are `instruction`, perhaps `input`, `response1`, `response2`, and
  `annotator1` to `annotator3`: 1 or 2 is the better response, 0 a tie.
  """
  return _preferences('pandalm', rows)


def autoj(rows):
  """Auto-J's test pairs (Li et al. 2023, arXiv 2310.05470).

  The fields are `prompt`, `response 1`, `response 2`, and `label`: 0 if the
  first is better, 1 if the second is, 2 for a tie.
  """
  return _preferences('autoj', rows)


def qa_feedback(rows):
  """QA-Feedback (Wu et al. 2023, arXiv 2306.01693): up to six pairs per row.

  The fields are `question`, `passages`, lists of texts that follow it,
  `prediction 1` to `prediction 4`, and `preference` for 1-2, 1-3, 1-4, 2-3,
  2-4, 3-4. A preference is 1 or 2, the better of the two, or 0, a tie.
  """
  return _preferences('qa_feedback', rows)


# --- Plain texts -------------------------------------------------------------


def lines(rows):
  """The lines of a .txt file without blank ones."""
  for row in rows:
    yield row if field(row, 'text', str).strip() else LeftOut('a blank line')


def tldr(rows):
  """Reddit posts (Stiennon et al. 2020, arXiv 2009.01325), summarised.

  `prompt` ends in 'TL;DR:', `reference` is its author's summary.
  """
  for row in rows:
    prompt = text_field(row, 'prompt')
    summary = text_field(row, 'reference').lstrip()
    yield Row(dict(prompt=prompt, completion=f' {summary}'), place(row))


def tldr_comparisons(rows):
  """Comparisons of TL;DR summaries: `info`, `summaries`, `choice` 0 or 1."""
  for row in rows:
    info, choice = field(row, 'info', dict), field(row, 'choice', int)
    found = field(row, 'summaries', list)
    texts = [typed(row, "field 'summaries' item", x, dict) for x in found]
    if choice not in (0, 1) or len(texts) != 2:
      raise row_error(
        row, f'choice {choice} of {len(texts)} summaries, expected 0 or 1 of 2'
      )
    names = ('subreddit', 'title', 'post')
    subreddit, title, post = (
      typed(row, f"field 'info' {name}", info.get(name), str) for name in names
    )
    sides = [
      ' ' + typed(row, "field 'summaries' text", x.get('text'), str).lstrip()
      for x in texts
    ]
    prompt = f'SUBREDDIT: r/{subreddit}\nTITLE: {title}\nPOST: {post}\nTL;DR:'
    yield Row(
      dict(prompt=prompt, chosen=sides[choice], rejected=sides[1 - choice]),
      place(row),
    )


def gsm8k(rows):
  """Questions with worked solutions: `question`, `answer` str, not blank.

  A line break after the question ends the prompt. `answer` ends in
  '#### NUMBER'. The row yielded has that number as its `answer`, and the whole
  text as its `completion`.
  """
  for row in rows:
    question = text_field(row, 'question')
    solution = field(row, 'answer', str)
    number = final_answer(solution)
    if number is None:
      raise row_error(
        row,
        f"field 'answer' ends in {solution[-20:]!r}, expected '#### NUMBER'",
        "field 'answer' has no number",
      )
    # Still a Row, so that its user can name it if it is too long.
    yield Row(
      dict(prompt=f'{question}\n', completion=solution, answer=number),
      place(row),
    )


def text_label(rows):
  """Labelled texts: `text`, str, not blank, and `label`, 1 good or 0 bad.

  Line breaks in HTML, of which film reviews are full, become spaces.
  """
  for row in rows:
    text = field(row, 'text', str).replace('<br />', ' ')
    label = field(row, 'label', int)
    if not text.strip():
      raise row_error(row, "field 'text' is empty")
    if label not in (0, 1):
      raise row_error(
        row,
        f"field 'label' is {label}, expected 0 or 1",
        "field 'label' is not 0 or 1",
      )
    yield dict(text=text, label=label)


DATASETS = {  # by the name configs use
  'standard': standard,
  'hh': hh,
  'ultrafeedback': ultrafeedback,
  'ultrafeedback_scores': ultrafeedback_scores,
  'scored_pairs': scored_pairs,
  'alpaca': alpaca,
  'alpaca_preference': alpaca_preference,
  'question_preference': question_preference,
  'alpaca_seeds': alpaca_seeds,
  'alpaca_pairs': alpaca_pairs,
  'pandalm': pandalm,
  'autoj': autoj,
  'qa_feedback': qa_feedback,
  'sharegpt': sharegpt,
  'questions': questions,
  'reference_answers': reference_answers,
  'tldr': tldr,
  'tldr_comparisons': tldr_comparisons,
  'gsm8k': gsm8k,
  'lines': lines,
  'text_label': text_label,
}
