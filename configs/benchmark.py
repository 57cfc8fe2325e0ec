"""A fixed workload at three sizes, for `python -m experiments.benchmark`.

Random weights, float32, every length full, no EOS: what is timed is the work
and nothing else. Llama architecture, full attention heads, tied embeddings.
"""

import ml_collections

SIZES = {  # vocab, width, layers, heads, SwiGLU width
  'S': (4096, 192, 4, 6, 768),
  'M': (8192, 512, 6, 8, 1536),
  'L': (32000, 768, 12, 12, 2048),
}


def model(vocab_size, dim, num_layers, num_heads, mlp_dim):
  return dict(
    vocab_size=vocab_size,
    dim=dim,
    num_layers=num_layers,
    num_heads=num_heads,
    num_kv_heads=num_heads,
    head_dim=dim // num_heads,
    mlp_dim=mlp_dim,
  )


def get_config():
  c = ml_collections.ConfigDict()
  c.models = {name: model(*size) for name, size in SIZES.items()}
  c.sizes = ('S', 'M')  # which of them to time
  c.repeats = 5  # rounds, after one that compiles; medians are reported
  c.learning_rate = 1e-6
  # Prompts, completions of each, tokens of a prompt and of a completion.
  c.tasks = {
    'SAMPLE': dict(prompts=32, group_size=1, prompt_len=64, completion_len=128),
    'DPO': dict(prompts=16, group_size=2, prompt_len=64, completion_len=128),
    'GRPO': dict(prompts=8, group_size=4, prompt_len=64, completion_len=128),
    'RLOO': dict(prompts=8, group_size=4, prompt_len=64, completion_len=128),
    'GROUP': dict(prompts=16, group_size=8, prompt_len=256, completion_len=64),
    'LONG': dict(prompts=16, group_size=2, prompt_len=512, completion_len=64),
  }
  return c
