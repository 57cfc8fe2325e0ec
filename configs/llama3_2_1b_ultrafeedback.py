"""Llama 3.2 1B on UltraFeedback: eight TPU chips, v5e-8.

  python -m experiments.online_vs_offline \
    --config=configs/llama3_2_1b_ultrafeedback.py --workdir=runs/llama_1b_uf

configs/llama3_8b_ultrafeedback.py with a smaller policy. It fits a v5e-8 by
`align fit --config=configs/llama3_2_1b_ultrafeedback.py --topology=v5e-8`.

Expect: not run at this size by the project, so neither time nor result is
known; the tests run it in miniature.
"""

from configs import llama3_8b_ultrafeedback


def get_config():
  c = llama3_8b_ultrafeedback.get_config()
  c.model.checkpoint = 'meta-llama/Llama-3.2-1B-Instruct'
  c.mesh.update(fsdp=8, rollout=1)
  c.arm.num_microbatches = 2
  return c
