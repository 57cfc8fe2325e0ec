#!/usr/bin/env bash
# Style, format, types and scripts; the tools are those of requirements/test.txt.
#   bash launch/lint.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
.venv/bin/python -m ruff check .
.venv/bin/python -m ruff format --check .
.venv/bin/shellcheck launch/*.sh .ci/run
exec .venv/bin/python -m mypy
