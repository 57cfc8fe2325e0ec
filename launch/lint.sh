#!/usr/bin/env bash
# Style, format and types; the tools are those of requirements/test.txt.
#   bash launch/lint.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
.venv/bin/python -m ruff check .
.venv/bin/python -m ruff format --check .
exec .venv/bin/python -m mypy
