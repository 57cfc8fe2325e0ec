# shellcheck shell=bash
# Sourced by the other scripts: finds a Python, or brings one.

# Prints the first Python that is new enough. PYTHON=/path/to/python3 chooses.
find_python() {
  local candidate candidates=(python3 python3.11 python3.12 python3.13 python)
  [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
      2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

# Prints the path of uv, which can bring a Python: an installed one, or else
# the package of PyPI, put into .uv by pip or venv of any python3.
find_uv() {
  if command -v uv; then
    return
  fi
  if [[ ! -x .uv/bin/uv ]]; then
    echo "installing uv into .uv (once) ..." >&2
    python3 -m pip install --quiet --disable-pip-version-check --target .uv \
      uv >&2 ||
      { python3 -m venv .uv && .uv/bin/python -m pip install --quiet uv >&2; } ||
      return 1
  fi
  echo .uv/bin/uv
}

# fast_compiles PYTHON: XLA's flags for tests, whose programs run for moments.
fast_compiles() {
  local flags=--xla_backend_optimization_level=0
  # A third of the time without these. Since jaxlib 0.11 XLA has no choice.
  if "$1" -c 'from jaxlib.version import __version_info__ as v
exit(v >= (0, 11))'; then
    flags+=" --xla_cpu_use_fusion_emitters=false"
  fi
  echo "$flags"
}

# make_venv FOLDER: a virtual environment with pip.
make_venv() {
  local python uv
  python=$(find_python) || python=
  if [[ -n $python ]] && "$python" -m venv "$1" 2>/dev/null; then
    return
  fi
  if [[ -z $python && -n ${PYTHON:-} ]]; then
    echo "error: PYTHON=$PYTHON is no Python 3.11 or newer:" \
      "$("$PYTHON" --version 2>&1 || true)" >&2
    return 1
  fi
  # Ubuntu 22.04, of TPU VMs, has Python 3.10; Debian's may lack venv.
  if uv=$(find_uv) && "$uv" venv --quiet --seed --allow-existing \
    --python "${python:-3.12}" "$1"; then
    return
  fi
  echo "error: found no Python 3.11 or newer that can make a virtual" \
    "environment, and uv could not bring one (messages are above)." \
    "Install python3.12 and python3.12-venv," \
    "or set PYTHON=/path/to/python3." >&2
  return 1
}
