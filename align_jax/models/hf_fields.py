"""Fields of a config.json: what they may be, and which matter if unknown.

transformers writes every attribute of a config, and other tools add their own.
Most say nothing about the forward pass. The words of a field's name tell which
could: those in `MATTERS`, unless one is in `HARMLESS`. A field that could is
refused, unless its value changes nothing.
"""

import re

from align_jax import values

MATTERS = frozenset(
  """
  4bit 8bit act activation adapter adapters alibi architecture attention attn
  awq bias bidirectional bits block blocks bnb canon cap capping causal centered
  clip compress compressed compression conv cope cross dense depth dim dims dual
  emb embed embedding embeddings encoder eps epsilon exit expert experts factor
  ffn fp4 fp8 gate gated gating gptq group groups head heads hidden hybrid inner
  int4 int8 intermediate key kv latent layer layernorm layers linear logit
  logits logn loop lora mamba mask memory mixture mla mlp moe mrope mult
  multiplier mup nf4 nope norm normalization normalize normalized normalizer ntk
  offset parallel position positional positions prefix proj q qk qkv quant
  quantization quantize quantized query recurrent renormalize rescale residual
  rms rope rotary rotate routed router routing scalar scale scaled scaling
  shared shift sink sinks skip sliding smear soft softcap softcapping softmax
  sparse sparsity ssm stride swa temperature theta topk weight weights width
  window windows xpos yarn
  """.split()
)
# Words of training, and of other ways to compute the same numbers.
HARMLESS = frozenset(
  """
  adam aux beam beams coef coefficient dropout entropy flash freeze frozen fused
  grad gradient implementation init initializer jitter layerdrop loss lr noise
  pdrop sdpa smoothing std summary upcast xformers
  """.split()
)
# Of generation, of what a forward pass returns, and of how it is distributed.
EXCUSED = frozenset(
  """
  chunk_size_feed_forward drop_path encoder_no_repeat_ngram_size model_parallel
  output_attentions output_hidden_states output_router_logits prefix
  sequence_parallel temperature tensor_parallel tie_encoder_decoder top_k
  weight_decay
  """.split()
)
# Of these 1 changes nothing, unless it stands for the usual 1 / sqrt(size).
ONES = frozenset(
  'factor fraction mult multiplier pct percent ratio scalar scale scaling'
  ' scaled'.split()
)
ROOTS = frozenset('attention attn depth qk query softmax'.split())
# What every model does, and what all with RoPE do: false is a request.
_verb = r'((is|use|apply|do)_)?'
USUAL = re.compile(
  _verb + r'(causal|causal_mask|residual|norm|layer_?norm|rms_?norm|'
  r'scale_(attn|attention)\w*)'
)
ROTARY = re.compile(
  _verb + r'(rope|rotary|(rope|rotary(_pos)?|position)_emb(eddings?)?)'
)
OURS = {  # names that a family may not read, of what ModelConfig says
  'head_dim': 'head_dim',
  'hidden_size': 'dim',
  'intermediate_size': 'mlp_dim',
  'max_position_embeddings': 'num_positions',
  'num_attention_heads': 'num_heads',
  'num_hidden_layers': 'num_layers',
  'num_key_value_heads': 'num_kv_heads',
}


def _words(name):
  """'rope_interleaved' and 'ropeInterleaved' -> {'rope', 'interleaved'}."""
  spaced = re.sub(r'(?<=[a-z0-9])(?=[A-Z])', '_', name)
  return {w for w in re.split(r'[^a-z0-9]+', spaced.lower()) if w}


def changes(name, value, config):
  """Whether an unread field could ask for another forward pass.

  Args:
    name, value: of the field.
    config: fields of ModelConfig that the file was found to describe.
  """
  if value is False and USUAL.fullmatch(name):
    return True
  if value is False and ROTARY.fullmatch(name):
    return not config.get('num_positions')
  words = _words(name)
  if not words & MATTERS or words & HARMLESS or name in EXCUSED:
    return False
  if name in OURS and value == config.get(OURS[name]):
    return False
  return not _neutral(words, value, config)


def _neutral(words, value, config):
  """Whether a value of a field with such words leaves the numbers alone."""
  if not value:
    return True
  if isinstance(value, str):
    positions = 'absolute' if config.get('num_positions') else 'rope'
    known = ('none', 'default', 'full', 'full_attention', 'causal')
    return value.lower() in known or (
      'position' in words and value.lower() == positions
    )
  if isinstance(value, list):
    return all(_neutral(words, x, config) for x in value)
  if isinstance(value, dict):
    kind = value.get('rope_type', value.get('type'))
    return 'rope' in words and kind == 'default'
  return value is not True and value == 1 and words & ONES and not words & ROOTS


# --- Values -------------------------------------------------------------------

_size = values.count()
_names = 'names of classes'
ALLOWED = {
  **dict.fromkeys(
    """
    head_dim hidden_size intermediate_size max_position_embeddings
    moe_intermediate_size n_embd n_head n_inner n_layer n_positions
    num_attention_heads num_experts_per_tok num_hidden_layers
    num_key_value_heads original_max_position_embeddings
    sliding_window_pattern vocab_size
    """.split(),
    _size,
  ),
  **dict.fromkeys(
    'max_window_layers num_experts num_local_experts sliding_window'.split(),
    values.count(0),
  ),
  **dict.fromkeys(
    """
    attn_logit_softcapping final_logit_softcapping layer_norm_eps
    layer_norm_epsilon query_pre_attn_scalar rms_norm_eps rope_local_base_freq
    rope_theta rotary_emb_base
    """.split(),
    values.number(above=0),
  ),
  **dict.fromkeys(
    ('partial_rotary_factor', 'rotary_pct'), values.number(above=0, most=1)
  ),
  **dict.fromkeys(
    """
    attention_bias mlp_bias norm_topk_prob tie_word_embeddings
    use_parallel_residual use_sliding_window
    """.split(),
    values.flag(),
  ),
  **dict.fromkeys(('rope_parameters', 'rope_scaling'), values.table()),
  'architectures': values.items(_names, lambda x: isinstance(x, str)),
  'layer_types': values.items(
    'names of kinds of attention', lambda x: isinstance(x, str)
  ),
  'model_type': values.text(),
}
_number = values.number(least=0)
_numbers = values.items('numbers', values.is_number)
OPTIONS = {  # of RoPE; all others are numbers
  'rope_theta': values.number(above=0),
  'partial_rotary_factor': values.number(above=0, most=1),
  'rope_type': values.text(),
  'type': values.text(),
  'truncate': values.flag(),
  'short_factor': _numbers,
  'long_factor': _numbers,
}


def checked(name, value):
  """The value of a field, which may be null.

  Raises:
    ValueError: it is not what such a field may be. Names the field.
  """
  if value is not None and name in ALLOWED:
    ALLOWED[name].checked(f'config.json: {name}', value)
  return value


def check_option(name, value):
  """Raises ValueError for a value that no option of RoPE may have."""
  if value is not None:
    OPTIONS.get(name, _number).checked(f'config.json: RoPE {name}', value)
