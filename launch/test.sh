#!/usr/bin/env bash
# The tests.
#   bash launch/test.sh [ARGS of pytest]
# TEST_WORKERS=N processes, two unless said otherwise, of up to 5 GiB each.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
export HF_HUB_OFFLINE=1
XLA_FLAGS="$(fast_compiles .venv/bin/python) ${XLA_FLAGS:-}"
export XLA_FLAGS
exec .venv/bin/python -m pytest -n "${TEST_WORKERS:-2}" --dist loadfile "$@"
