"""What a task asks for and the least that it can cost; no jax, no torch.

A spec has `kind`, `model`, `task`, `train` and `seed`, as in
configs/benchmark.py.
"""

import numpy as np


def tokens(spec, shape):
  """Random ids, neither padding (0) nor EOS (1): int32 of that shape."""
  rng = np.random.default_rng(spec['seed'])
  return rng.integers(2, spec['model']['vocab_size'], shape).astype(np.int32)


def limits(task):
  """Tokens wanted of each row of a task with a `mean_len`: int32 [P]."""
  drawn = np.random.default_rng(0).geometric(
    1 / task['mean_len'], task['prompts']
  )
  return np.minimum(drawn, task['completion_len']).astype(np.int32)


def weights(model):
  """(all, without the embedding); the latter is tied and counts once."""
  m = model
  layer = 4 * m['dim'] ** 2 + 3 * m['dim'] * m['mlp_dim'] + 2 * m['dim']
  body = m['num_layers'] * layer + m['dim']
  return body + m['vocab_size'] * m['dim'], body


def words(spec, rows, length):
  """Texts of `length` tokens each, for peers that want texts."""
  return [
    ' '.join(f'w{i}' for i in row) for row in tokens(spec, (rows, length))
  ]


def vocabulary(spec):
  """{word: id}, as `words` counts them."""
  named = ['<pad>', '<eos>']
  named += [f'w{i}' for i in range(2, spec['model']['vocab_size'])]
  return {word: i for i, word in enumerate(named)}


def tokenizer(spec, **how):
  """Of transformers: every word of `words` is one token."""
  import tokenizers
  import transformers
  from tokenizers import models, pre_tokenizers

  inner = tokenizers.Tokenizer(models.WordLevel(vocabulary(spec), '<pad>'))
  inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=inner, eos_token='<eos>', pad_token='<pad>', **how
  )


# --- The least that it can cost ----------------------------------------------
#
# Matrix products at the speed of the machine's best one, weights and KV cache
# read once per decoded token; attention and elementwise work not counted. Every
# row is taken to run its prompt and to have logits everywhere, as in a peer:
# who shares prompts or skips logits may go below.


def decoding(model, prompt_rows, rows, prompt_len, steps, length):
  """[(times, FLOPs, bytes), ...]: the prefill and then each decoded token."""
  total, body = weights(model)
  kept = prompt_len + length / 2
  cache = 2 * model['num_layers'] * model['dim'] * 4 * rows * kept
  return [
    (1, 2 * body * prompt_rows * prompt_len, 4 * body),
    (steps, 2 * total * rows, 4 * total + cache),
  ]


def sampling(model, task):
  rows = task['prompts'] * task['group_size']
  length = task['completion_len']
  return decoding(model, rows, rows, task['prompt_len'], length - 1, length)


def refilling(model, task):
  """As many steps as the tokens fill, if no slot is ever idle."""
  wanted, slots = limits(task), min(task['slots'], task['prompts'])
  steps = (wanted.sum() - len(wanted)) / slots
  sizes = task['prompts'], slots, task['prompt_len'], steps, wanted.mean()
  return decoding(model, *sizes)


def training(passes):
  """passes: 3 with the backward pass, 4 with a reference as well."""

  def parts(model, task):
    total, _ = weights(model)
    rows = task['prompts'] * task['group_size']
    count = rows * (task['prompt_len'] + task['completion_len'])
    return [(1, 2 * passes * total * count, 4 * passes * total)]

  return parts


def online(model, task):
  return sampling(model, task) + training(4)(model, task)


def completion_tokens(task):
  return task['prompts'] * task['group_size'] * task['completion_len']


def sequences(task):
  return task['prompts'] * task['group_size']


WORK = {  # by kind: its parts, and what its rate counts
  'sample': (sampling, completion_tokens, 'tokens'),
  'refill': (refilling, lambda task: int(limits(task).sum()), 'tokens'),
  'dpo': (training(3), sequences, 'sequences'),
  'dpo_ref': (training(4), sequences, 'sequences'),
  'grpo': (online, sequences, 'sequences'),
  'rloo': (online, sequences, 'sequences'),
}


def working_sets(parts):
  return [moved for _, _, moved in parts]


def limit(parts, flops, bandwidth):
  """What parts take at least.

  Args:
    flops: per second.
    bandwidth: bytes -> bytes per second of a working set of that size.
  Returns:
    seconds; those of the products alone; those of the memory alone.
  """
  compute = [(n, work / flops) for n, work, _ in parts]
  memory = [(n, moved / bandwidth(moved)) for n, _, moved in parts]
  both = [(n, max(c, m)) for (n, c), (_, m) in zip(compute, memory)]
  total = lambda x: sum(n * seconds for n, seconds in x)
  return total(both), total(compute), total(memory)
