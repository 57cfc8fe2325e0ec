"""Small preference files in the formats of published data sets."""

import json

BAD = ('no idea', 'go away', 'whatever you say', 'it is bad')
GOOD = ('gladly: it is', 'thank you, here is', 'of course, that is', 'yes, so')


def hh(i):
  asked = f'\n\nHuman: what is number {i}?\n\nAssistant:'
  return dict(
    chosen=f'{asked} {GOOD[i % 4]} {i}.', rejected=f'{asked} {BAD[i % 4]}.'
  )


def ultrafeedback(i):
  return dict(
    prompt=f'Tell me about {i}.',
    chosen=f'{GOOD[i % 4]} {i}.',
    rejected=f'{BAD[i % 4]}.',
    metadata=dict(score_chosen=8.0, score_rejected=2.0),
  )


def tldr_comparisons(i):
  return dict(
    info=dict(subreddit='x', title=f'{i}', post=f'post {i} is long'),
    summaries=[dict(text=f' {GOOD[i % 4]}'), dict(text=f' {BAD[i % 4]}')],
    choice=0,
  )


def write(path, row, count=40):
  path.write_text(''.join(json.dumps(row(i)) + '\n' for i in range(count)))
  return path
