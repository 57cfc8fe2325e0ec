#!/usr/bin/env bash
# The first command of a platform leads to the toy's page, on its packages.
#   bash launch/first_runs.sh colab|bare [ARGS of experiments.online_vs_offline]
# colab: the lines of launch/README.md on the packages of Colab's image.
# bare: bash launch/local.sh where Python 3.10 is all there is, as on TPU VMs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/python.sh

name=${1:-}
case $name in
  colab | bare) shift ;;
  *)
    echo "error: '$name': expected colab or bare" >&2
    exit 1
    ;;
esac
uv=$(readlink -f "$(find_uv)")
folder=$PWD/runs/first_runs/$name
rm -rf "$folder"
git clone --quiet . "$folder/align_jax"

colab() {
  "$uv" venv --quiet --seed --python 3.13 "$folder/python"
  local python=$folder/python/bin/python
  "$python" -m pip install --quiet --requirement requirements/colab.txt
  cd "$folder/align_jax"
  "$python" -m pip install --quiet --requirement requirements/run.txt
  "$python" -m experiments.online_vs_offline --config=configs/toy.py \
    --workdir=runs/toy "$@"
}

# A PATH with everything but other Pythons and uv.
bare() {
  local tool
  mkdir "$folder/bin"
  for tool in /usr/bin/* /bin/*; do
    case ${tool##*/} in
      python* | pip* | uv | uvx) ;;
      *) ln -sf "$tool" "$folder/bin" ;;
    esac
  done
  "$uv" venv --quiet --python 3.10 "$folder/python"
  ln -s "$folder/python/bin/python3" "$folder/bin"
  cd "$folder/align_jax"
  PATH=$folder/bin PYTHON='' bash launch/local.sh "$@"
}

"$name" "$@"
if [[ ! -s $folder/align_jax/runs/toy/report.html ]]; then
  echo "error: $name: no page in $folder/align_jax/runs/toy" >&2
  exit 1
fi
