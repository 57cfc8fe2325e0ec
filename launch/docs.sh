#!/usr/bin/env bash
# The site, in runs/site/html; a warning, such as of a broken link, is an error.
#   bash launch/docs.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

stamp=.venv/docs
if ! cmp -s requirements/docs.txt "$stamp"; then
  echo "installing requirements/docs.txt into .venv (once) ..." >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --requirement requirements/docs.txt || {
    echo "error: pip could not install requirements/docs.txt (its message is" \
      "above); is the network up?" >&2
    exit 1
  }
  cp requirements/docs.txt "$stamp"
fi

rm -rf runs/site docs/site/api docs/site/made  # pages of what is gone would stay
JAX_PLATFORMS=cpu .venv/bin/python -m sphinx --quiet --fail-on-warning --jobs auto \
  -c docs/site -d runs/site/doctrees . runs/site/html
cp runs/site/html/README.html runs/site/html/index.html
echo "$PWD/runs/site/html/index.html"
