#!/usr/bin/env bash
# The tests.
#   bash launch/test.sh [ARGS of pytest]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
export HF_HUB_OFFLINE=1
exec .venv/bin/python -m pytest "$@"
