#!/usr/bin/env bash
# The tests.
#   bash launch/test.sh [ARGS of pytest]
# TEST_WORKERS=N processes, two unless said otherwise, of up to 5 GiB each.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
export HF_HUB_OFFLINE=1
# Compiling takes the most time, and these programs run for moments.
flags=--xla_backend_optimization_level=0
# A third of the time without these. Since jaxlib 0.11 XLA has no choice.
if .venv/bin/python -c 'from jaxlib.version import __version_info__ as v
exit(v >= (0, 11))'; then
  flags+=" --xla_cpu_use_fusion_emitters=false"
fi
export XLA_FLAGS="$flags ${XLA_FLAGS:-}"
exec .venv/bin/python -m pytest -n "${TEST_WORKERS:-2}" --dist loadfile "$@"
