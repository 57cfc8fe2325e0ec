#!/usr/bin/env bash
# The main job: online against offline at matched KL, on the toy task.
#   bash launch/local.sh [ARGS of experiments.online_vs_offline]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

has() { [[ " ${*:2} " == *" --$1"[=\ ]* ]]; }
args=("$@")
has config "$@" || args=(--config=configs/toy.py "${args[@]}")
has workdir "$@" || args=(--workdir=runs/toy "${args[@]}")
exec .venv/bin/python -m experiments.online_vs_offline "${args[@]}"
