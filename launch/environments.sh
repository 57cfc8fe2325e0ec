#!/usr/bin/env bash
# The tests on the sets of packages that have to work, each in an environment
# of its own under runs/environments.
#   bash launch/environments.sh [colab | jax-0.10 | jax-0.12]... [-- ARGS]
# ARGS are pytest's. TEST_WORKERS=N processes, two unless said otherwise.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/python.sh

# NAME, version of Python, and what pip installs first.
make() {
  home=runs/environments/$1
  "$uv" venv --quiet --clear --seed --python "$2" "$home"
  install "${@:3}"
}

install() {
  "$home/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
}

packages() {
  "$home/bin/python" -m pip list --format=freeze | grep -v '^pip=' | sort
}

# Colab's set may get more packages, and no other version of any.
keeps_what_is_there() {
  local before after
  before=$(packages)
  install --requirement requirements.txt
  after=$(packages)
  echo "$1: pip install -r requirements.txt adds:" \
    "$(comm -13 <(echo "$before") <(echo "$after") | xargs)"
  if [[ -n $(comm -23 <(echo "$before") <(echo "$after")) ]]; then
    echo "error: $1: it changes:" \
      "$(comm -23 <(echo "$before") <(echo "$after") | xargs)" >&2
    return 1
  fi
}

run_tests() {
  local about status=0
  about=$("$home/bin/python" -c '
import importlib.metadata, platform
names = "jax", "flax", "orbax-checkpoint", "numpy"
print(f"Python {platform.python_version()}", *(
  f"{name} {importlib.metadata.version(name)}" for name in names), sep=", ")')
  HF_HUB_OFFLINE=1 XLA_FLAGS=$(fast_compiles "$home/bin/python") \
    "$home/bin/python" -m pytest -n "${TEST_WORKERS:-2}" --dist loadfile "$@" |
    tee "$home/tests.log" || status=$?
  results+=("$(date -u +%F) $name ($about): $(tail -n 1 "$home/tests.log")")
  return $status
}

names=()
while (($#)) && [[ $1 != -- ]]; do
  names+=("$1")
  shift
done
((${#names[@]})) || names=(colab jax-0.10 jax-0.12)
for name in "${names[@]}"; do
  if [[ ! $name =~ ^(colab|jax-0.10|jax-0.12)$ ]]; then
    echo "error: $name: expected colab, jax-0.10 or jax-0.12" >&2
    exit 1
  fi
done
uv=$(find_uv)
results=() failed=0
for name in "${names[@]}"; do
  case $name in
    colab)
      make colab 3.13 --requirement requirements/colab.txt
      keeps_what_is_there colab
      ;;
    jax-0.10) make "$name" 3.11 --requirement requirements.txt 'jax==0.10.*' ;;
    jax-0.12) make "$name" 3.12 --requirement requirements.txt 'jax==0.12.*' ;;
  esac
  run_tests "${@:2}" || failed=1
done
printf '%s\n' "${results[@]}"
exit $failed
