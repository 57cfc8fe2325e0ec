# Sourced by the other scripts: goes to the repository's root and makes .venv.
# PYTHON=/path/to/python3 chooses the interpreter.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.11 python3.12 python3.13 python}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
      2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: Python 3.11 or newer is needed; found" \
    "$(${PYTHON:-python3} --version 2>&1 || echo none)." \
    "Install it, or set PYTHON=/path/to/python3." >&2
  return 1
}

# All that .venv is made of: a change of any of these installs again.
wanted() {
  cat requirements.txt requirements/*.txt
}

install() {
  local python stamp=.venv/installed
  if wanted | cmp -s - "$stamp"; then
    return
  fi
  python=$(find_python) || return 1
  "$python" -m venv .venv || {
    echo "error: '$python -m venv' failed; on Debian and Ubuntu install" \
      "the package python3-venv." >&2
    return 1
  }
  echo "installing requirements.txt into .venv (once) ..." >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --requirement requirements.txt || {
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
