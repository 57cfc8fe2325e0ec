# shellcheck shell=bash
# Sourced by the other scripts: goes to the repository's root and makes .venv.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
source launch/python.sh

# All that .venv is made of: a change of any of these installs again.
wanted() {
  cat requirements.txt requirements/{run,test}.txt
  jax_of_machine
}

# 'jax[tpu]', 'jax[cuda12]' or 'jax', by what the machine has.
jax_of_machine() {
  .venv/bin/python -m align_jax.hardware
}

install() {
  local jax stamp=.venv/installed
  if [[ -x .venv/bin/python ]] && wanted | cmp -s - "$stamp"; then
    return
  fi
  make_venv .venv && jax=$(jax_of_machine) || return 1
  echo "installing requirements.txt and $jax into .venv (once) ..." >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --requirement requirements.txt "$jax" || {
    echo "error: pip could not install requirements.txt (its message is" \
      "above); is the network up?" >&2
    return 1
  }
  wanted >"$stamp"
}

install || exit 1
# Compiled programs are kept, so a second run starts at once.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/runs/.jax_cache}"
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-2}"
