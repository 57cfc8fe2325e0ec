"""Which reader a file asks for, by the columns of its first row."""

from align_jax.data.readers import QUESTION


def _transcripts(row):
  sides = row['chosen'], row['rejected']
  return all(str(side).startswith('\n\nHuman:') for side in sides)


def _no_prompt(row):
  return 'prompt' not in row


def _is_asked(row):
  side = row['chosen']
  if isinstance(side, list):  # without the question
    first = side[0] if side else None
    side = isinstance(first, dict) and first.get('role') == 'assistant'
  named = any(isinstance(row.get(x), str) for x in QUESTION)
  return 'prompt' not in row and named and side


def _answers(row):
  metadata = row.get('metadata')
  scored = isinstance(metadata, dict) and 'score_chosen' in metadata
  return isinstance(row['prompt'], str) and (
    scored or isinstance(row['chosen'], list)
  )


SIGNATURES = {  # the columns that identify a reader, and a further test
  'hh': ({'chosen', 'rejected'}, _transcripts),
  'alpaca_preference': ({'instruction', 'chosen', 'rejected'}, _no_prompt),
  'question_preference': ({'chosen', 'rejected'}, _is_asked),
  'alpaca_pairs': ({'instruction', 'output_1', 'preference'}, None),
  'pandalm': ({'instruction', 'response1', 'annotator1'}, None),
  'autoj': ({'prompt', 'response 1', 'label'}, None),
  'qa_feedback': ({'question', 'prediction 1', 'preference'}, None),
  'alpaca_seeds': ({'instruction', 'instances'}, None),
  'alpaca': ({'instruction', 'output'}, None),
  'ultrafeedback_scores': ({'instruction', 'completions'}, None),
  'ultrafeedback': ({'prompt', 'chosen', 'rejected'}, _answers),
  'sharegpt': ({'conversations'}, None),
  'tldr': ({'prompt', 'reference', 'samples'}, None),
  'tldr_comparisons': ({'info', 'summaries', 'choice'}, None),
  'gsm8k': ({'question', 'answer'}, None),
  'lines': ({'line', 'text'}, lambda row: len(row) == 2),
  'questions': ({'turns'}, lambda row: isinstance(row['turns'], list)),
  'reference_answers': ({'question_id', 'choices'}, None),
}

FURTHER = {  # columns that a reader reads beside those of its signature
  'alpaca': {'input'},
  'alpaca_preference': {'input'},
  'alpaca_pairs': {'input', 'output_2'},
  'pandalm': {'input', 'response2', 'annotator2', 'annotator3'},
  'autoj': {'response 2'},
  'qa_feedback': {'passages', *(f'prediction {i}' for i in (2, 3, 4))},
  'question_preference': set(QUESTION),
  'scored_pairs': {
    *('prompt', 'chosen', 'rejected', 'score_chosen', 'score_rejected')
  },
  'text_label': {'text', 'label'},
}


def columns_of(name):
  """The columns that the reader `name` reads; none for 'standard'."""
  return set(SIGNATURES.get(name, ((), None))[0]) | FURTHER.get(name, set())


def detect(row):
  """The name in `readers.DATASETS` that fits a row's columns, or 'standard'."""
  for name, (columns, test) in SIGNATURES.items():
    if columns <= row.keys() and (test is None or test(row)):
      return name
  return 'standard'
