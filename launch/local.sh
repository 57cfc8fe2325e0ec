#!/usr/bin/env bash
# The main job: online against offline at matched KL, on the toy task.
#   bash launch/local.sh [ARGS of experiments.online_vs_offline]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

has() { [[ " ${*:2} " == *" --$1"[=\ ]* ]]; }
has config "$@" || set -- --config=configs/toy.py "$@"
has workdir "$@" || set -- --workdir=runs/toy "$@"
exec .venv/bin/python -m experiments.online_vs_offline "$@"
