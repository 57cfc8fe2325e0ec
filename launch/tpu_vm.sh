#!/usr/bin/env bash
# Runs an experiment on a Cloud TPU: creates the VMs, starts it on all of them,
# shows its output, fetches the results and deletes the VMs. If these are taken
# away, it creates them again, and the same command goes on from --workdir.
#
#   bash launch/tpu_vm.sh NAME --type=TYPE --zone=ZONE \
#     --workdir=gs://BUCKET/FOLDER [--spot | --flex-start=4h] [--dry-run] \
#     -- EXPERIMENT [ARGS]
#
# TYPE is v5litepod-8 or another accelerator type of the Cloud TPU API, or
# tpu7x-TOPOLOGY, such as tpu7x-2x2x1, which Compute Engine provides. The
# project is that of `gcloud config`. What runs is the commit HEAD. --dry-run
# prints all commands and runs none.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
  echo "error: $*" >&2
  exit 1
}

# The command line ------------------------------------------------------------

name=${1:-} type='' zone='' workdir='' terms='' duration='' dry=false
[[ $name =~ ^[a-z][a-z0-9-]*$ ]] ||
  fail "'$name': expected a name of a-z, 0-9 and -, for the VMs"
shift
first() { [[ -z $1 ]] || fail "$2: expected one of its kind, after $1"; }
while (($#)) && [[ $1 != -- ]]; do
  case $1 in
    --type=?*) first "$type" "$1" && type=${1#*=} ;;
    --zone=?*) first "$zone" "$1" && zone=${1#*=} ;;
    --workdir=gs://?*/?*)
      first "$workdir" "$1" && workdir=${1#*=} workdir=${workdir%/}
      ;;
    --workdir=*) fail "$1: expected a folder of a bucket, gs://BUCKET/FOLDER" ;;
    --spot) first "$terms" "$1" && terms=spot ;;
    --flex-start=?*)
      first "$terms" "$1" && terms=flex-start duration=${1#*=}
      ;;
    --dry-run) dry=true ;;
    *) fail "$1: expected --type=, --zone=, --workdir=gs://, --spot," \
      "--flex-start=DURATION or --dry-run, and -- before the experiment" ;;
  esac
  shift
done
terms=${terms:-on-demand}
[[ $type ]] || fail '--type is required, such as --type=v5litepod-8'
[[ $zone ]] || fail '--zone is required, such as --zone=us-west4-a'
[[ $workdir ]] || fail '--workdir is required, a folder of a bucket (gs://...)'
(($# > 1)) || fail 'expected -- EXPERIMENT, such as -- online_vs_offline'
shift
file=experiments/${1//.//}.py # `suite.e14_semi_online`, as after python -m
[[ $1 != */* && -f $file ]] || fail "$1: no such file as $file"
grep -q "^if __name__ == '__main__':" "$file" ||
  fail "$1: $file is no experiment"
for word in "${@:2}"; do
  case $word in
    --workdir | --workdir=*) fail "$word: expected before --, and there alone" ;;
    --config=*)
      path=${word#*=} path=${path%%:*}
      git cat-file -e "HEAD:$path" 2>/dev/null ||
        fail "$word: no such file in HEAD, which is what runs"
      ;;
  esac
done
experiment=("$@" --workdir="$workdir")

case $type in
  v2-* | v3-* | v4-*) api=tpu runtime=tpu-ubuntu2204-base ;;
  v5litepod-*) api=tpu runtime=v2-alpha-tpuv5-lite ;;
  v5p-*) api=tpu runtime=v2-alpha-tpuv5 ;;
  v6e-*) api=tpu runtime=v2-alpha-tpuv6e ;;
  tpu7x-*)
    api=gce topology=${type#tpu7x-}
    [[ $topology =~ ^[1-9][0-9]?x[1-9][0-9]?x[1-9][0-9]?$ ]] ||
      fail "--type=$type: expected tpu7x-AxBxC, such as tpu7x-2x2x1"
    chips=$((${topology//x/*})) hosts=$((chips / 4))
    ((chips % 4 == 0)) ||
      fail "--type=$type: expected a multiple of the four chips of a VM"
    ;;
  *) fail "--type=$type: expected v5litepod-N, v6e-N, ..., or tpu7x-AxBxC" ;;
esac

# Commands --------------------------------------------------------------------

show() {
  local line
  line=$(printf '%q ' "$@")
  echo "${line% }" >&2
}

run() {
  show "$@"
  $dry || "$@"
}

# ask ANSWER COMMAND: the command's output; in a dry run, ANSWER.
ask() {
  if $dry; then
    show "${@:2}"
    echo "$1"
  else
    "${@:2}"
  fi
}

pause() { $dry || sleep "$1"; }

# Cloud TPU API: one queued resource is the request and the slice.

create_tpu() {
  local command=(gcloud) options=()
  case $terms in
    spot) options=(--spot) ;;
    flex-start)
      command=(gcloud alpha)
      options=(--provisioning-model=flex-start --max-run-duration="$duration")
      ;;
  esac
  begin slice "${command[@]}" compute tpus queued-resources create "$name" \
    --zone="$zone" --node-id="$name" --accelerator-type="$type" \
    --runtime-version="$runtime" "${options[@]}" --quiet
}

list_tpu() { # ANSWER
  ask "$1" gcloud compute tpus queued-resources list --zone="$zone" \
    --filter="name~/$name\$" --format='value(state.state)'
}

there_tpu() { list_tpu ''; }
state_tpu() { list_tpu ACTIVE; }

on_tpu() {
  run gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker="$1" \
    --command="$2"
}

delete_tpu() {
  drop slice gcloud compute tpus queued-resources delete "$name" \
    --zone="$zone" --force --quiet
}

# Compute Engine: a managed instance group is the slice.

create_gce() {
  local region=${zone%-*} options=() slice=() project policy
  case $terms in
    on-demand) options=(--provisioning-model=STANDARD) ;;
    spot)
      options=(--provisioning-model=SPOT --instance-termination-action=DELETE)
      ;;
    flex-start)
      options=(--provisioning-model=FLEX_START --max-run-duration="$duration"
        --instance-termination-action=DELETE)
      ;;
  esac
  if ((hosts > 1)); then
    project=$(ask PROJECT gcloud config get-value project)
    begin policy gcloud compute resource-policies create workload-policy \
      "$name" --region="$region" --type=HIGH_THROUGHPUT \
      --accelerator-topology="$topology" \
      --accelerator-topology-mode=AUTO_CONNECT || return
    policy=projects/$project/regions/$region/resourcePolicies/$name
    slice=(--target-size-policy-mode=bulk --workload-policy="$policy")
  fi
  begin template gcloud compute instance-templates create "$name" \
    --machine-type=tpu7x-standard-4t --maintenance-policy=TERMINATE \
    --image-project=ubuntu-os-accelerator-images \
    --image-family=ubuntu-accel-2404-amd64-tpu-tpu7x \
    --boot-disk-size=200GB --scopes=cloud-platform "${options[@]}" || return
  begin group gcloud compute instance-groups managed create "$name" \
    --zone="$zone" --template="$name" --size="$hosts" \
    --default-action-on-vm-failure=do-nothing "${slice[@]}"
}

there_gce() {
  ask '' gcloud compute instance-groups managed list --filter="name=$name" \
    --format='value(name)' || return
  ask '' gcloud compute instance-templates list --filter="name=$name" \
    --format='value(name)'
}

# list_gce ANSWER FIELD: of all VMs; the group adds four characters to its name.
list_gce() {
  ask "$1" gcloud compute instances list --zones="$zone" \
    --filter="name~^$name-[a-z0-9]{4}\$" --format="value($2)"
}

state_gce() {
  local states
  states=$(list_gce RUNNING status) || return
  if $dry || (($(grep -c RUNNING <<<"$states") == hosts)); then
    echo ACTIVE
  elif [[ $states ]]; then
    echo WAITING
  fi
}

on_gce() {
  local vms vm processes=() status=0
  vms=$(list_gce "$name-VM" name | sort) || return
  [[ $1 == all ]] || vms=$(head -n 1 <<<"$vms")
  for vm in $vms; do
    run gcloud compute ssh "$vm" --zone="$zone" --command="$2" &
    processes+=($!)
  done
  for vm in "${processes[@]}"; do
    wait "$vm" || status=$?
  done
  return $status
}

delete_gce() {
  local status=0
  drop group gcloud compute instance-groups managed delete "$name" \
    --zone="$zone" --quiet || status=$?
  drop template gcloud compute instance-templates delete "$name" --quiet ||
    status=$?
  drop policy gcloud compute resource-policies delete "$name" \
    --region="${zone%-*}" --quiet || status=$?
  return $status
}

# The job ----------------------------------------------------------------------

made=() # what `create` has created, or may have: it alone is deleted

# begin WHAT COMMAND...: a signal may come before the command has an answer, so
# what may be there by then is noted before.
begin() {
  made+=("$1")
  run "${@:2}" && return
  forget "$1"
  return 1
}

# drop WHAT COMMAND...: if it was made
drop() {
  [[ " ${made[*]} " == *" $1 "* ]] || return 0
  run "${@:2}" && forget "$1"
}

forget() {
  local one kept=()
  for one in "${made[@]}"; do
    [[ $one == "$1" ]] || kept+=("$one")
  done
  made=("${kept[@]}")
}

create() { "create_$api"; }
there() { "there_$api"; } # what has this name already
state() { "state_$api"; } # ACTIVE: all VMs are up; '': there are none
on() { "on_$api" "$@"; }  # on all|0 COMMAND: of every VM, or of one
delete() { # of what the API refuses for a while, too
  local tries
  for tries in 1 2 3 4 5; do
    "delete_$api" && return
    ((tries == 5)) || pause 20
  done
  echo "error: $name may still be there, and cost: delete it" >&2
  return 1
}

worker() { # the command line of launch/worker.sh on a VM
  printf 'bash align_jax/launch/worker.sh'
  printf ' %q' "$@"
}

# The commit goes through the bucket, so that every VM has the same.
bundle=$workdir.bundle
upload() {
  local file
  $dry || [[ -z $(git status --porcelain) ]] ||
    fail 'there are changes that are not committed, and HEAD is what runs'
  file=$(mktemp)
  run git bundle create --quiet "$file" HEAD
  run gcloud storage cp "$file" "$bundle"
  rm -f "$file"
}
fetch="test -f align_jax/launch/worker.sh || { rm -rf align_jax &&
gcloud storage cp $(printf %q "$bundle") code &&
git init --quiet align_jax && git -C align_jax pull --quiet ../code HEAD; }"

# Until all VMs are up and have the code; status 1 if they are taken away.
prepare() {
  local now up=false tries=0
  while :; do
    now=$(state) || now=unknown
    case $now in
      ACTIVE)
        up=true
        on all "$fetch" && return
        ((++tries < 20)) || fail "no connection to $name" # keys take a while
        ;;
      FAILED) fail "$name cannot be created; 'gcloud ... describe' says why" ;;
      SUSPEND*) return 1 ;;
      unknown) ;;
      *) ! $up || return 1 ;;
    esac
    pause 30
  done
}

start() { on all "$(worker start "${experiment[@]}")"; }

# Shows the output until the experiment is done; status 1 if the VMs are gone.
watch() {
  local how now unknown=0
  while :; do
    now=$(state) || { pause 30 && continue; } # no connection
    [[ $now == ACTIVE ]] || return 1
    on 0 "$(worker follow)" || true # the connection may break
    how=$(on all "$(worker outcome)" | sort -u) || how=unknown
    ! $dry || how='done'
    [[ $how == unknown ]] || unknown=0
    case $how in
      'done') return ;;
      unknown)
        ((++unknown < 100)) || fail "no answer from $name; see above"
        pause 10
        ;;
      *running*) pause 10 ;;
      *) # processes of a slice that is taken away end before its state says so
        pause 60
        now=$(state) || continue
        [[ $now == ACTIVE ]] || return 1
        [[ $how != *failed* ]] || fail "${experiment[0]} failed; see above"
        start
        ;;
    esac
  done
}

attempt() {
  create || fail "$name was not created, gcloud says why above; if it is there" \
    'all the same, it is not deleted'
  prepare || return
  start || true # `watch` starts it again
  watch
}

already=$(there) || fail "gcloud does not say what there is; see above"
[[ -z $already ]] || fail "there is a $name already"
upload
trap delete EXIT
# gcloud takes Ctrl-C for itself and ends as if nothing had come.
trap 'exit 130' INT
trap 'exit 143' TERM
until attempt; do
  echo "$name was taken away; creating it again" >&2
  delete || exit
  pause 60
done
run mkdir -p "runs/$name"
run gcloud storage rsync --recursive --exclude='.*/(checkpoints|kept)/.*' \
  "$workdir" "runs/$name"
$dry || echo "results: runs/$name; with checkpoints: $workdir"
