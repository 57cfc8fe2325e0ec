"""The records that everything else passes around.

Shape letters, used throughout: B rows, P prompts, G group, S prompt tokens,
T completion tokens, V vocab, D model, N heads, K kv heads, R = N / K,
H head dim, F mlp, L layers, E eval prompts, M samples per eval prompt.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import numpy as np
import optax

Params = Any  # a tree of arrays
Model = Any  # what `models.interface.of` knows: a ModelConfig or an Adapter
Metrics = dict[str, jax.Array]


class Batch(flax.struct.PyTreeNode):
  """P prompts with G scored completions each: B = P * G rows, by prompt.

  A prompt is stored once and computed once, and its G completions share it. An
  offline pair is G = 2 with rewards (1, 0), a rollout is G rows with sampled
  rewards, a demonstration is G = 1.
  """

  prompts: jax.Array  # int32 [P, S]  left-padded
  prompt_valid: jax.Array  # bool [P, S]  not padding
  completions: jax.Array  # int32 [B, T]  right-padded; EOS is part of it
  valid: jax.Array  # bool [B, T]  not padding
  mask: jax.Array  # bool [B, T]  what a loss may touch; from lengths, not ids
  rewards: jax.Array  # f32 [B]
  sampler_logps: jax.Array | None = None  # f32 [B, T]  under the rows' writer
  policy_logps: jax.Array | None = None  # f32 [B, T]  the same at temperature
  # 1, untruncated. None: sampling was already so; use `sampler_logps`.
  weights: jax.Array | None = (
    None  # f32 [B, T]  importance weights that correct
  )
  # the sampler, see `losses.correction`. None: 1 each
  ref_logps: jax.Array | None = None  # f32 [B, T]  under the reference
  prepared: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
  # [B, ...] each: what a loss computed on the whole batch before it was split,
  # see `losses.row.Loss.prepare`
  group_size: int = flax.struct.field(pytree_node=False, default=1)

  @property
  def num_prompts(self) -> int:
    """P, the number of prompts."""
    return self.prompts.shape[0]


@dataclasses.dataclass(frozen=True)
class Prompts:
  """Prompts without completions, on the host."""

  tokens: np.ndarray  # int32 [N, S]  left-padded
  valid: np.ndarray  # bool [N, S]

  def __len__(self) -> int:
    return len(self.tokens)

  def __getitem__(self, index: Any) -> tuple[np.ndarray, np.ndarray]:
    return self.tokens[index], self.valid[index]


class Outputs(flax.struct.PyTreeNode):
  """Everything a loss may need besides log-probs."""

  logps: jax.Array  # f32 [B, T]
  kls: jax.Array | None = None  # f32 [B, T]  exact KL to the reference
  values: jax.Array | None = None  # f32 [B, T]  the critic's, before the token


# What a loss returns: a scalar, and metrics with its 'weight'.
Scored = tuple[jax.Array, dict[str, jax.Array]]


class TrainState(flax.struct.PyTreeNode):
  """What a checkpoint stores and a train step donates: arrays only."""

  step: jax.Array  # int32 []
  params: Params
  opt_state: optax.OptState
  anchors: dict[str, Params]  # older copies of params: 'ref', 'sampler'
  # f32 [] each: numbers that a run carries along, such as an adaptive `beta`.
  # They override the loss's hyper-parameters of the same name.
  stats: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
