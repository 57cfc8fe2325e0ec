"""What a policy forgets: measured on texts that it did not write.

Policies at equal reverse KL may differ in the forward KL, which is large where
the policy no longer says what the reference does. Shenfeld et al. 2025 (arXiv
2509.04259) and Chen et al. 2025 (arXiv 2510.18874) ask which of them goes with
the loss of older abilities. Abilities themselves are gold on `eval.sets`.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from align_jax import hosts
from align_jax.learn.batches import chunks
from align_jax.learn.stopping import EVALUATION, check


@dataclasses.dataclass(frozen=True)
class Texts:
  """Texts that all policies of a seed are measured on, made when first read."""

  samples: Callable  # () -> Batch, M of the reference for each held-out prompt
  demonstrations: Callable  # () -> Batch, held out, G = 1, with `ref_logps`
  kls: Callable  # (params, other params, batch) -> exact KL, log-ratio [B, T]
  logps: Callable  # (params, batch) -> f32 [B, T]
  batch_size: int  # demonstrations at a time


def forward_kl(texts, params, ref_params):
  """KL(reference || policy), nats per completion of the reference.

  Exact for every token, as the KL of the other direction is: f64 [E].
  """
  batch = texts.samples()
  kls, _ = hosts.fetch(texts.kls(ref_params, params, batch))
  total = np.asarray(kls, np.float64).sum(1)
  return total.reshape(-1, batch.group_size).mean(1)


def demonstration_logp(texts, params, ref_params):
  """Held-out demonstrations, log-prob above the reference's, nats per token.

  A number per demonstration: f64 [D].
  """
  del ref_params  # the demonstrations have its log-probs
  batch = texts.demonstrations()
  found = []
  for part in chunks(batch, texts.batch_size):
    check(EVALUATION)
    found.append(hosts.fetch(texts.logps(params, part)))
  logps = np.concatenate(found)[: batch.num_prompts].astype(np.float64)
  ratios = np.where(batch.mask, logps - np.asarray(batch.ref_logps), 0)
  return ratios.sum(1) / np.maximum(np.asarray(batch.mask).sum(1), 1)


FORGETTING = {  # (Texts, params, ref_params) -> f64 [N], by names in configs
  'forward_kl': forward_kl,
  'demonstration_logp': demonstration_logp,
}
