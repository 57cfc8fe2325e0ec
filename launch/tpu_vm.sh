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

name=${1:-} type='' zone='' workdir='' terms=on-demand duration='' dry=false
[[ $name =~ ^[a-z][a-z0-9-]*$ ]] ||
  fail "'$name': expected a name of a-z, 0-9 and -, for the VMs"
shift
while (($#)) && [[ $1 != -- ]]; do
  case $1 in
    --type=?*) type=${1#*=} ;;
    --zone=?*) zone=${1#*=} ;;
    --workdir=gs://?*) workdir=${1#*=} ;;
    --spot) terms=spot ;;
    --flex-start=?*) terms=flex-start duration=${1#*=} ;;
    --dry-run) dry=true ;;
    *) fail "$1: expected --type=, --zone=, --workdir=gs://, --spot," \
      "--flex-start=DURATION or --dry-run, and -- before the experiment" ;;
  esac
  shift
done
[[ $type ]] || fail '--type is required, such as --type=v5litepod-8'
[[ $zone ]] || fail '--zone is required, such as --zone=us-west4-a'
[[ $workdir ]] || fail '--workdir is required, a folder of a bucket (gs://...)'
(($# > 1)) || fail 'expected -- EXPERIMENT, such as -- online_vs_offline'
shift
[[ -f experiments/$1.py ]] || fail "$1: no such file as experiments/$1.py"
experiment=("$@" --workdir="$workdir")

case $type in
  v2-* | v3-* | v4-*) api=tpu runtime=tpu-ubuntu2204-base ;;
  v5litepod-*) api=tpu runtime=v2-alpha-tpuv5-lite ;;
  v5p-*) api=tpu runtime=v2-alpha-tpuv5 ;;
  v6e-*) api=tpu runtime=v2-alpha-tpuv6e ;;
  tpu7x-*x*x*)
    api=gce topology=${type#tpu7x-}
    hosts=$((${topology//x/*} / 4)) # a VM has four chips
    ((hosts)) || fail "--type=$type: expected four chips or more"
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
  run "${command[@]}" compute tpus queued-resources create "$name" \
    --zone="$zone" --node-id="$name" --accelerator-type="$type" \
    --runtime-version="$runtime" "${options[@]}" --quiet
}

state_tpu() {
  ask ACTIVE gcloud compute tpus queued-resources list --zone="$zone" \
    --filter="name~/$name\$" --format='value(state.state)'
}

on_tpu() {
  run gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker="$1" \
    --command="$2"
}

delete_tpu() {
  run gcloud compute tpus queued-resources delete "$name" --zone="$zone" \
    --force --quiet
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
    run gcloud compute resource-policies create workload-policy "$name" \
      --region="$region" --type=HIGH_THROUGHPUT \
      --accelerator-topology="$topology" \
      --accelerator-topology-mode=AUTO_CONNECT || return
    policy=projects/$project/regions/$region/resourcePolicies/$name
    slice=(--target-size-policy-mode=bulk --workload-policy="$policy")
  fi
  run gcloud compute instance-templates create "$name" \
    --machine-type=tpu7x-standard-4t --maintenance-policy=TERMINATE \
    --image-project=ubuntu-os-accelerator-images \
    --image-family=ubuntu-accel-2404-amd64-tpu-tpu7x \
    --boot-disk-size=200GB --scopes=cloud-platform "${options[@]}" || return
  run gcloud compute instance-groups managed create "$name" --zone="$zone" \
    --template="$name" --size="$hosts" \
    --default-action-on-vm-failure=do-nothing "${slice[@]}"
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
  run gcloud compute instance-groups managed delete "$name" --zone="$zone" \
    --quiet || status=$?
  run gcloud compute instance-templates delete "$name" --quiet || status=$?
  ((hosts == 1)) || run gcloud compute resource-policies delete "$name" \
    --region="${zone%-*}" --quiet || status=$?
  return $status
}

# The job ----------------------------------------------------------------------

create() { "create_$api"; }
state() { "state_$api"; } # ACTIVE: all VMs are up; '': there are none
on() { "on_$api" "$@"; }  # on all|0 COMMAND: of every VM, or of one
delete() {
  "delete_$api" ||
    echo "error: $name may still be there, and cost: delete it" >&2
}

worker() { # the command line of launch/worker.sh on a VM
  printf 'bash align_jax/launch/worker.sh'
  printf ' %q' "$@"
}

# The commit goes through the bucket, so that every VM has the same.
bundle="${workdir%/}.bundle"
upload() {
  local file
  $dry || [[ -z $(git status --porcelain) ]] ||
    fail 'there are changes that are not committed, and HEAD is what runs'
  file=$(mktemp)
  run git bundle create --quiet "$file" HEAD
  run gcloud storage cp "$file" "$bundle"
  rm -f "$file"
}
fetch="test -d align_jax || { gcloud storage cp $(printf %q "$bundle") code &&
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
  local how now
  while :; do
    now=$(state) || { pause 30 && continue; } # no connection
    [[ $now == ACTIVE ]] || return 1
    on 0 "$(worker follow)" || true # the connection may break
    how=$(on all "$(worker outcome)" | sort -u) || how=unknown
    ! $dry || how='done'
    case $how in
      'done') return ;;
      *running* | unknown) pause 10 ;;
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
  create || fail "$name was not created; gcloud says why above"
  prepare || return
  start || true # `watch` starts it again
  watch
}

$dry || [[ -z $(state) ]] || fail "there is a $name already"
upload
trap delete EXIT
until attempt; do
  echo "$name was taken away; creating it again" >&2
  delete
  pause 60
done
run mkdir -p "runs/$name"
run gcloud storage rsync --recursive --exclude='.*/(checkpoints|kept)/.*' \
  "$workdir" "runs/$name"
$dry || echo "results: runs/$name; with checkpoints: $workdir"
