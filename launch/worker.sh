#!/usr/bin/env bash
# What launch/tpu_vm.sh runs on every VM: an experiment that outlives the
# connection, its output, and how it ended.
#   bash launch/worker.sh start EXPERIMENT [ARGS]
#   bash launch/worker.sh follow    # prints the output until the end
#   bash launch/worker.sh outcome   # running, done, stopped or failed
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p runs
pid=runs/worker.pid log=runs/worker.log status=runs/worker.status

running() { [[ -f $pid ]] && kill -0 "$(cat $pid)" 2>/dev/null; }

experiment() {
  source launch/setup.sh
  .venv/bin/python -m "experiments.$1" "${@:2}"
}

case ${1:-} in
  run) # in the background, by `start`
    (experiment "${@:2}") && echo 0 >$status || echo $? >$status
    ;;
  start)
    running && exit
    rm -f $status
    setsid bash launch/worker.sh run "${@:2}" >$log 2>&1 </dev/null &
    echo $! >$pid
    ;;
  follow) tail --lines=+1 --pid="$(cat $pid)" --follow $log ;;
  outcome)
    if running; then
      echo running
    elif [[ ! -f $status ]] || grep -q '^stopped:' $log; then
      echo stopped # or killed
    elif [[ $(cat $status) == 0 ]]; then
      echo 'done'
    else
      echo failed
    fi
    ;;
  *)
    echo "error: ${1:-no word}: expected start, follow or outcome" >&2
    exit 1
    ;;
esac
