"""Llama 3 70B on UltraFeedback: the 64 chips of a v5p-128.

  python -m experiments.online_vs_offline \
    --config=configs/llama3_70b_ultrafeedback.py --workdir=runs/llama_70b_uf

configs/llama3_8b_ultrafeedback.py with a larger policy. It fits a v5p-128 by
`align fit --config=configs/llama3_70b_ultrafeedback.py --topology=v5p-128`.

Expect: not run at this size by the project, so neither time nor result is
known; the tests run it in miniature.
"""

from configs import llama3_8b_ultrafeedback


def get_config():
  c = llama3_8b_ultrafeedback.get_config()
  c.model.checkpoint = 'meta-llama/Meta-Llama-3-70B-Instruct'
  return c
