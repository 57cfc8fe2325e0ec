#!/usr/bin/env bash
# The tests.
#   bash launch/test.sh [ARGS of pytest]
# TEST_WORKERS=N processes, two unless said otherwise, of up to 5 GiB each.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
export HF_HUB_OFFLINE=1
XLA_FLAGS="$(fast_compiles .venv/bin/python) ${XLA_FLAGS:-}"
if [[ $(jax_of_machine) == *cuda* ]]; then
  # Products of whole float32 and sums in one order, as on a CPU.
  export JAX_DEFAULT_MATMUL_PRECISION=highest
  XLA_FLAGS+=" --xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0"
  export XLA_PYTHON_CLIENT_PREALLOCATE=false # the processes share the GPU
fi
export XLA_FLAGS
exec .venv/bin/python -m pytest -n "${TEST_WORKERS:-2}" --dist loadfile "$@"
