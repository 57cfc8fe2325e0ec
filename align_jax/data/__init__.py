"""From files and data sets to token arrays.

Rows come from a file or data set (`files`). A reader in `DATASETS` maps them to
one of the formats (`formats`), or to what a task asks for. A chat template
turns messages into text (`chat`). A tokenizer turns texts into ids (`tokens`,
`examples`), which become a Batch. docs/data.md lists every outcome of a row.
"""

from align_jax.data.answers import correct, final_answer
from align_jax.data.comparisons import COMPARISONS
from align_jax.data.examples import (
  Encoded,
  Encoder,
  make_encoder,
  marker_lines,
)
from align_jax.data.files import fingerprint, rows
from align_jax.data.named_templates import load_template
from align_jax.data.pipeline import (
  Limits,
  encode_examples,
  make_batch,
  make_prompts,
  read,
  read_examples,
  task_rows,
)
from align_jax.data.readers import DATASETS, gsm8k, text_label
from align_jax.data.row import (
  Counts,
  LeftOut,
  Row,
  RowError,
  field,
  place,
  row_error,
)
from align_jax.data.stream import Mixture, Stream, batches
from align_jax.data.tokens import (
  SPECIAL_TOKENS,
  Vocabulary,
  check_ids,
  decoder,
  encode,
  left_pad,
  load_tokenizer,
  make_vocabulary,
  right_pad,
  save_vocabulary,
  texts_of,
  train_tokenizer,
)

__all__ = [
  'COMPARISONS',
  'Counts',
  'DATASETS',
  'Encoded',
  'Encoder',
  'LeftOut',
  'Limits',
  'Mixture',
  'Row',
  'RowError',
  'SPECIAL_TOKENS',
  'Stream',
  'Vocabulary',
  'batches',
  'check_ids',
  'correct',
  'decoder',
  'encode',
  'encode_examples',
  'field',
  'final_answer',
  'fingerprint',
  'gsm8k',
  'left_pad',
  'load_template',
  'load_tokenizer',
  'make_batch',
  'make_encoder',
  'make_prompts',
  'make_vocabulary',
  'marker_lines',
  'place',
  'read',
  'read_examples',
  'right_pad',
  'row_error',
  'rows',
  'save_vocabulary',
  'task_rows',
  'text_label',
  'texts_of',
  'train_tokenizer',
]
