"""config.json of published models -> ModelConfig, one function per family.

A field that asks for something the model does not do is an error that names it.
A field that nothing here reads is judged by its name and value: see
`hf_fields.changes`.
"""

from align_jax.models import hf_fields
from align_jax.models.config import ModelConfig

ACTIVATIONS = {
  'silu': 'silu',
  'swish': 'silu',
  'relu': 'relu',
  'gelu': 'gelu',
  'gelu_python': 'gelu',
  'gelu_new': 'gelu_tanh',
  'gelu_fast': 'gelu_tanh',
  'gelu_pytorch_tanh': 'gelu_tanh',
  'quick_gelu': 'quick_gelu',
}

_REQUIRED = object()
_ROPE_KEYS = {'type', 'rope_type', 'rope_theta', 'partial_rotary_factor'}
_ROPE_OPTIONS = {
  'linear': ('factor',),
  'dynamic': ('factor',),
  'llama3': ('factor', 'low_freq_factor', 'high_freq_factor'),
  'yarn': (
    'factor',
    'attention_factor',
    'mscale',
    'mscale_all_dim',
    'beta_fast',
    'beta_slow',
    'truncate',
  ),
  'longrope': ('factor', 'short_factor', 'long_factor', 'attention_factor'),
}


class Fields:
  """The fields of a config.json, with a record of which were read."""

  def __init__(self, fields):
    self.fields, self.seen = fields, set()

  def __call__(self, name, default=_REQUIRED):
    """The value of a field, or the default if it is absent or null."""
    value = self.given(name, None)
    if value is None and default is _REQUIRED:
      raise ValueError(f'config.json: {name!r} is missing')
    return default if value is None else value

  def given(self, name, default):
    """The value of a field, even null, or the default if it is absent."""
    self.seen.add(name)
    return hf_fields.checked(name, self.fields.get(name, default))

  def must(self, name, expected):
    """Raises unless a field is absent or equals what the model does."""
    value = self(name, expected)
    if value != expected:
      raise ValueError(
        f'config.json: {name}={value!r} is not supported, only {expected!r}'
      )

  def unread(self, config):
    """Raises on the first field that asks for something nobody read."""
    for name, value in self.fields.items():
      if name not in self.seen and hf_fields.changes(name, value, config):
        raise ValueError(
          f'config.json: {name}={value!r} is not supported by this model'
        )


def from_hf(fields, max_length=0, **changes):
  """The model that a config.json describes.

  Args:
    fields: the file's dict.
    max_length: the length, prompt and completion, at which 'dynamic' and
      'longrope' RoPE are fixed. 0: up to the trained length.
    **changes: fields of ModelConfig that override the file.
  Raises:
    ValueError: an unknown model_type, or a field that asks for something the
      model does not do.
  """
  f = Fields(fields)
  name = f('model_type')
  scalar = any('SequenceClass' in x for x in f('architectures', ()))
  if name not in CONFIGS:
    raise ValueError(
      f'config.json: model_type={name!r} is none of {sorted(CONFIGS)}'
    )
  config = CONFIGS[name](f, max_length)
  config['head'] = 'scalar' if scalar else 'lm'
  f.unread(config)
  try:
    return ModelConfig(**{**config, **changes})
  except ValueError as error:
    raise ValueError(f'config.json: {error}') from error


def _activation(f, name, default=_REQUIRED):
  value = f(name, default)
  if value not in ACTIVATIONS:
    raise ValueError(
      f'config.json: {name}={value!r} is none of {sorted(ACTIVATIONS)}'
    )
  return ACTIVATIONS[value]


def _scaling(f, given, max_length):
  """A rope_scaling or rope_parameters dict -> ModelConfig.rope_scaling."""
  kind = given.get('rope_type', given.get('type', 'default'))
  trained = f('max_position_embeddings', 2048)
  known = {*_ROPE_KEYS, 'original_max_position_embeddings'}
  if kind == 'default':
    options = ()
  elif kind not in _ROPE_OPTIONS:
    raise ValueError(
      f'config.json: rope_type={kind!r} is none of {list(_ROPE_OPTIONS)}'
    )
  else:
    options = _ROPE_OPTIONS[kind]
  for name, value in given.items():
    hf_fields.check_option(name, value)
    if name not in known | {*options} and value is not None:
      raise ValueError(
        f'config.json: {name}={value!r} is not an option of rope_type={kind!r}'
      )
  if not options:
    return ()
  found = {n: given[n] for n in options if given.get(n) is not None}
  found = {n: tuple(v) if isinstance(v, list) else v for n, v in found.items()}
  if kind != 'linear':
    length = given.get('original_max_position_embeddings')
    length = f('original_max_position_embeddings', length)
    length = trained if kind == 'dynamic' or length is None else length
    found['original_length'] = length
    if kind in ('yarn', 'longrope'):
      found.setdefault('factor', trained / length)
  if kind in ('dynamic', 'longrope'):
    found['length'] = max_length
  return kind, tuple(sorted(found.items()))


def _rope(f, head_dim, max_length, theta=10_000.0, share=1.0, phi=False):
  """The rotary switches of ModelConfig, in either spelling of the file."""
  # Both are read, so that the one which is not used is checked too.
  new, old = f('rope_parameters', None), f('rope_scaling', None)
  given = dict(new or old or {})
  if phi and given.get('rope_type', given.get('type')) in ('su', 'yarn'):
    given |= {'rope_type': 'longrope'}  # Phi-3's first name for it
  theta, share = f('rope_theta', theta), f('partial_rotary_factor', share)
  inside = {k: v for k, v in given.items() if v is not None}
  theta = inside.get('rope_theta', theta)
  share = inside.get('partial_rotary_factor', share)
  size = int(head_dim * share)
  return {
    'rope_theta': float(theta),
    'rope_dim': None if size == head_dim else size,
    'rope_scaling': _scaling(f, given, max_length),
  }


def _windows(f, layers, size, sliding):
  """Per layer `size` or 0. The file says which, or else `sliding`."""
  types = f('layer_types', None)
  if types is None:
    types = ['sliding_attention' if s else 'full_attention' for s in sliding]
  strange = {*types} - {'sliding_attention', 'full_attention'}
  if strange or len(types) != layers:
    raise ValueError(
      f'config.json: layer_types={types} is not {layers} times '
      f"'sliding_attention' or 'full_attention'"
    )
  windows = tuple(size if t == 'sliding_attention' else 0 for t in types)
  return windows if any(windows) else ()


def _sizes(f):
  heads, dim = f('num_attention_heads'), f('hidden_size')
  if dim < heads:
    raise ValueError(
      f'config.json: hidden_size={dim}, expected at least '
      f'num_attention_heads={heads}'
    )
  return {
    'vocab_size': f('vocab_size'),
    'dim': dim,
    'num_layers': f('num_hidden_layers'),
    'num_heads': heads,
    'num_kv_heads': heads,
    'head_dim': dim // heads,
    'mlp_dim': f('intermediate_size'),
  }


def _llama_like(f, max_length, head_dim=None, eps=1e-6, tied=False, **rope):
  sizes = _sizes(f)
  sizes['num_kv_heads'] = f('num_key_value_heads', sizes['num_heads'])
  if sizes['num_heads'] % sizes['num_kv_heads']:
    raise ValueError(
      f'config.json: num_key_value_heads={sizes["num_kv_heads"]}, expected a '
      f'divisor of num_attention_heads={sizes["num_heads"]}'
    )
  sizes['head_dim'] = f('head_dim', head_dim or sizes['head_dim'])
  f('max_position_embeddings', 0)
  return {
    **sizes,
    **_rope(f, sizes['head_dim'], max_length, **rope),
    'norm_eps': f('rms_norm_eps', eps),
    'tie_embeddings': f('tie_word_embeddings', tied),
  }


def _silu(f):
  return {'activation': _activation(f, 'hidden_act', 'silu')}


def _biases(f):
  bias = f('attention_bias', False)
  return {'qkv_bias': bias, 'o_bias': bias}


def _one_window(f, layers, default=None):
  size = f.given('sliding_window', default)
  return {'windows': (size,) * layers if size else ()}


def llama(f, max_length):
  """Fields of ModelConfig for Llama."""
  config = _llama_like(f, max_length)
  return {**config, **_silu(f), **_biases(f), 'mlp_bias': f('mlp_bias', False)}


def mistral(f, max_length):
  """Fields of ModelConfig for Mistral."""
  config = _llama_like(f, max_length)
  return {**config, **_silu(f), **_one_window(f, config['num_layers'], 4096)}


def _qwen_windows(f, layers):
  size, first = f('sliding_window', 4096), f('max_window_layers', 28)
  if not f('use_sliding_window', False):
    size = 0
  sliding = [size and i >= first for i in range(layers)]
  return {'windows': _windows(f, layers, size, sliding)}


def qwen2(f, max_length):
  """Fields of ModelConfig for Qwen2, and so 2.5."""
  config = _llama_like(f, max_length) | {'qkv_bias': True}
  return {**config, **_silu(f), **_qwen_windows(f, config['num_layers'])}


def qwen3(f, max_length):
  """Fields of ModelConfig for Qwen 3."""
  config = _llama_like(f, max_length, head_dim=128) | {'qk_norm': True}
  windows = _qwen_windows(f, config['num_layers'])
  return {**config, **_silu(f), **_biases(f), **windows}


def _experts(f, count):
  return {
    'num_experts': count,
    'experts_per_token': f('num_experts_per_tok', 2),
  }


def qwen3_moe(f, max_length):
  """Fields of ModelConfig for Qwen 3's mixtures of experts."""
  config = _llama_like(f, max_length) | {'qk_norm': True}
  f.must('decoder_sparse_step', 1)
  f.must('mlp_only_layers', [])
  f('max_window_layers', None)
  size = f('sliding_window', 4096)
  size = size if f('use_sliding_window', False) else 0
  return {
    **config,
    **_silu(f),
    **_biases(f),
    **_experts(f, f('num_experts', f('num_local_experts', None))),
    'mlp_dim': f('moe_intermediate_size'),
    'renormalise_experts': f('norm_topk_prob', False),
    'windows': (size,) * config['num_layers'] if size else (),
  }


def mixtral(f, max_length):
  """Fields of ModelConfig for Mixtral."""
  config = _llama_like(f, max_length, eps=1e-5, theta=1e6)
  return {
    **config,
    **_silu(f),
    **_experts(f, f('num_local_experts', 8)),
    **_one_window(f, config['num_layers']),
  }


def _gemma(f, config):
  act = f('hidden_act', None), f('hidden_activation', None)
  name = 'hidden_activation' if act[1] else 'hidden_act'
  f.must('use_bidirectional_attention', False)
  return {
    **config,
    **_biases(f),
    'activation': _activation(f, name, 'gelu_pytorch_tanh'),
    'norm_offset': 1.0,
    'post_norms': True,
    'embed_scale': config['dim'] ** 0.5,
    'attention_scale': f('query_pre_attn_scalar', 256) ** -0.5,
  }


def gemma2(f, max_length):
  """Fields of ModelConfig for Gemma 2."""
  config = _llama_like(f, max_length, head_dim=256, tied=True)
  layers = config['num_layers']
  sliding = [i % 2 == 0 for i in range(layers)]
  return {
    **_gemma(f, config),
    'windows': _windows(f, layers, f('sliding_window', 4096), sliding),
    'attention_softcap': f.given('attn_logit_softcapping', 50.0),
    'logit_softcap': f.given('final_logit_softcapping', 30.0),
  }


def gemma3(f, max_length):
  """Fields of ModelConfig for Gemma 3's text model."""
  nested = f('rope_parameters', None) or {}
  old = f('rope_scaling', None)
  whole = dict(nested.get('full_attention') or old or {})
  local = dict(nested.get('sliding_attention') or {})
  for name, value in local.items():
    hf_fields.check_option(name, value)
  if local.get('rope_type', 'default') != 'default':
    raise ValueError(
      f'config.json: rope_type={local["rope_type"]!r} of sliding_attention is '
      "not supported, only 'default'"
    )
  f.fields = {k: v for k, v in f.fields.items() if k != 'rope_parameters'}
  f.fields['rope_scaling'] = whole
  config = _llama_like(f, max_length, head_dim=256, tied=True, theta=1e6)
  layers, pattern = config['num_layers'], f('sliding_window_pattern', 6)
  f('_sliding_window_pattern', None)
  sliding = [(i + 1) % pattern != 0 for i in range(layers)]
  theta = f('rope_local_base_freq', 10_000.0)
  theta = theta if local.get('rope_theta') is None else local['rope_theta']
  return {
    **_gemma(f, config),
    'qk_norm': True,
    'windows': _windows(f, layers, f('sliding_window', 4096), sliding),
    'local_rope_theta': float(theta),
    'attention_softcap': f('attn_logit_softcapping', None),
    'logit_softcap': f('final_logit_softcapping', None),
  }


def phi3(f, max_length):
  """Fields of ModelConfig for Phi 3."""
  f('original_max_position_embeddings', None)
  config = _llama_like(f, max_length, eps=1e-5, phi=True)
  for name in ('attention_bias', 'mlp_bias', 'lm_head_bias'):
    f.must(name, False)
  for name in ('full_attn_mod', 'interpolate_factor'):
    f.must(name, 1)
  return {**config, **_silu(f), **_one_window(f, config['num_layers'])}


def gpt2(f, max_length):
  """Fields of ModelConfig for GPT-2."""
  dim, heads = f('n_embd', 768), f('n_head', 12)
  f.must('scale_attn_weights', True)
  f.must('scale_attn_by_inverse_layer_idx', False)
  f.must('add_cross_attention', False)
  f('n_ctx', None)
  return {
    'vocab_size': f('vocab_size', 50257),
    'dim': dim,
    'num_layers': f('n_layer', 12),
    'num_heads': heads,
    'num_kv_heads': heads,
    'head_dim': dim // heads,
    'mlp_dim': f('n_inner', 4 * dim),
    'num_positions': f('n_positions', 1024),
    'norm_eps': f('layer_norm_epsilon', 1e-5),
    'activation': _activation(f, 'activation_function', 'gelu_new'),
    'tie_embeddings': f('tie_word_embeddings', True),
    'norm': 'layer',
    'gated': False,
    'qkv_bias': True,
    'o_bias': True,
    'mlp_bias': True,
  }


def gpt_neox(f, max_length):
  """Fields of ModelConfig for GPT-NeoX, and so Pythia."""
  sizes = _sizes(f)
  theta, share = f('rotary_emb_base', 10_000.0), f('rotary_pct', 0.25)
  f('max_position_embeddings', 2048)
  f('is_decoder', None)
  bias = f('attention_bias', True)
  return {
    **sizes,
    **_rope(f, sizes['head_dim'], max_length, theta, share),
    'norm_eps': f('layer_norm_eps', 1e-5),
    'activation': _activation(f, 'hidden_act', 'gelu'),
    'tie_embeddings': f('tie_word_embeddings', False),
    'parallel': f('use_parallel_residual', True),
    'norm': 'layer',
    'gated': False,
    'qkv_bias': bias,
    'o_bias': bias,
    'mlp_bias': True,
  }


CONFIGS = {
  'llama': llama,
  'mistral': mistral,
  'mixtral': mixtral,
  'qwen2': qwen2,
  'qwen3': qwen3,
  'qwen3_moe': qwen3_moe,
  'gemma2': gemma2,
  'gemma3_text': gemma3,
  'phi3': phi3,
  'gpt2': gpt2,
  'gpt_neox': gpt_neox,
}
