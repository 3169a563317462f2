#!/usr/bin/env bash
# Trains on a Cloud TPU VM or pod slice:
#   ./launch/tpu_vm.sh run --name=ema --zone=us-central2-b --type=v4-8 -- \
#       --config=nyuv2 --workdir=gs://bucket/nyuv2 && \
#   ./launch/tpu_vm.sh delete --name=ema --zone=us-central2-b
# What stands behind -- goes to python -m emanet_jax.main --distributed=auto on every worker. Ctrl-C ends the
# following alone; the same command follows again. docs/clusters.md has the rest.
set -euo pipefail

usage="usage: launch/tpu_vm.sh ACTION --name=NAME --zone=ZONE [--project=PROJECT] [--dry-run]
  create   makes the VM, unless it is there: --type=v4-8 [--version=RUNTIME]; other flags go to gcloud (--spot)
  install  copies the tracked files as they are now to every worker, and installs requirements.txt and jax[tpu]
  start    starts the training on every worker: -- ARGUMENT ... of python -m emanet_jax.main
  follow   shows the log of worker 0 until the run ends, and exits with its status
           (0 done, 1 an error of yours, 75 stopped by a signal: start the same command again)
  delete   deletes the VM, which ends its costs and loses its disk
  run      create, install, start, follow; follows a run that is going on
  --dry-run prints the commands instead of running them."

log() { printf 'launch/tpu_vm.sh: %s.\n' "$*" >&2; }
fail() { # SENTENCE [STATUS]
  log "$1"
  exit "${2:-1}"
}

action="${1:-}"
case "$action" in
  create | install | start | follow | delete | run) shift ;;
  --help) echo "$usage" && exit ;;
  *) fail "'$action' is none of create, install, start, follow, delete, run (--help says what they do)" ;;
esac
name="" zone="" type="" version="" project=() create_flags=() dry=""
while [ $# -gt 0 ]; do
  case "$1" in
    --name=*) name="${1#*=}" ;;
    --zone=*) zone="${1#*=}" ;;
    --project=*) project=("$1") ;;
    --type=*) type="${1#*=}" ;;
    --version=*) version="${1#*=}" ;;
    --dry-run) dry=1 ;;
    --) shift && break ;;
    -*) create_flags+=("$1") ;;
    *) fail "'$1' is no flag; flags of the training stand behind --" ;;
  esac
  shift
done
[[ "$name" =~ ^[a-z] ]] || fail "--name='$name' must be the name of a VM, such as ema"
[[ "$zone" =~ ^[a-z]+-[a-z]+[0-9]+-[a-z]$ ]] || fail "--zone='$zone' must be a zone such as us-central2-b"
case "$action" in
  create | run)
    case "$version:$type" in
      :v[234]-*) version=tpu-ubuntu2204-base ;;
      :v5litepod-*) version=v2-alpha-tpuv5-lite ;;
      :v5p-*) version=v2-alpha-tpuv5 ;;
      :v6e-*) version=v2-alpha-tpuv6e ;;
      :*) fail "--type='$type' has no known runtime version: write it as v4-8, or give --version=..., one of 'gcloud compute tpus versions list --zone=$zone'" ;;
    esac
    ;;
  *) [ -z "${create_flags[*]-}" ] || fail "'${create_flags[0]}' is no flag of $action; flags of the training stand behind --" ;;
esac
case "$action" in
  start | run) [[ " $* " == *" --workdir="* ]] || fail "the training needs its --workdir=..., behind --" ;;
esac
[ -n "$dry" ] || command -v gcloud > /dev/null ||
  fail "gcloud is not installed: see https://cloud.google.com/sdk/docs/install"

cd "$(dirname "${BASH_SOURCE[0]}")/.."
vm=(gcloud compute tpus tpu-vm)
place=("--zone=$zone" ${project[@]+"${project[@]}"} --quiet)
again="--name=$name --zone=$zone${project[*]+ ${project[*]}}"
follow_it="./launch/tpu_vm.sh follow $again" delete_it="./launch/tpu_vm.sh delete $again"
costs="$name costs until it is deleted ($delete_it)"

try() { if [ -n "$dry" ]; then printf '%q ' "$@" && echo; else "$@"; fi; }
call() { try "$@" || fail "'${*:1:6} ...' failed with exit status $?; its own message stands above" "$?"; }
on() { "$1" "${vm[@]}" ssh "$name" "${place[@]}" "--worker=$2" "--command=$3"; } # HOW WORKER COMMAND

create() {
  local state=""
  [ -n "$dry" ] || state="$("${vm[@]}" describe "$name" "${place[@]}" "--format=value(state)" 2> /dev/null)" || true
  case "$state" in
    READY) log "$name is there already" ;;
    "")
      call "${vm[@]}" create "$name" "${place[@]}" "--accelerator-type=$type" "--version=$version" \
        ${create_flags[@]+"${create_flags[@]}"}
      log "$costs"
      ;;
    *) fail "$name is $state; wait until it is READY, or delete it first ($delete_it)" ;;
  esac
}

# shellcheck disable=SC2016 # this and what follows is for the workers' shells
running() { [ -z "$dry" ] && on try 0 'test ! -e emanet_jax/run.status && kill -0 "$(cat emanet_jax/run.pid)"' > /dev/null 2>&1; }

# libtpu comes in the version that JAX asks for; the VM's own Python may be too old.
unpack='mkdir -p emanet_jax && rm -rf emanet_jax/emanet_jax emanet_jax/configs && tar -xzf emanet_jax.tar.gz -C emanet_jax'
# shellcheck disable=SC2016
install='cd emanet_jax && PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv && PYTHON="$(~/.local/bin/uv python find 3.11 || { ~/.local/bin/uv python install --quiet 3.11 && ~/.local/bin/uv python find 3.11; })" EXTRA="jax[tpu]" ./launch/local.sh true'

install() {
  local archive="${TMPDIR:-/tmp}/emanet_jax.tar.gz" commit pause
  # Changes that are not committed come along, as a commit that is on no branch.
  commit="$(git -c user.name=launch -c user.email=launch@localhost stash create)"
  call git archive --format=tar.gz "--output=$archive" "${commit:-HEAD}"
  for pause in "${PAUSE:-20}" "${PAUSE:-20}" ""; do # SSH answers some time after the VM is there
    if try "${vm[@]}" scp "$archive" "$name:emanet_jax.tar.gz" "${place[@]}" --worker=all; then break; fi
    [ -n "$pause" ] || fail "the code cannot be copied to $name; gcloud's own message stands above"
    sleep "$pause"
  done
  on call all "$unpack"
  on call all "$install"
}

# In a session of its own, which outlives the SSH connection. The exit status is kept beside the log.
start() {
  # shellcheck disable=SC2016
  local program='./launch/local.sh python -m emanet_jax.main --distributed=auto "$@"; echo $? > run.status'
  on call all "cd emanet_jax && rm -f run.status && { setsid nohup bash -c $(printf '%q ' "$program" run "$@")> run.log 2>&1 < /dev/null & echo \$! > run.pid; }"
}

follow() {
  local status
  trap 'echo >&2; fail "the run goes on ($follow_it shows it again); $costs" 130' INT
  # shellcheck disable=SC2016
  on try 0 'cd emanet_jax && tail -n +1 --pid="$(cat run.pid)" -F run.log' || true # the connection may drop
  [ -z "$dry" ] || return 0
  status="$(on try 0 'cat emanet_jax/run.status' | tail -n 1)" || status=""
  case "$status" in
    0) log "the run is done; $costs" ;;
    75) log "a signal stopped the run, and the same command goes on; $costs" ;;
    [0-9]*) log "the run failed with exit status $status, and its log stands above; $costs" ;;
    *) fail "$name does not answer, or its run goes on; follow it again ($follow_it)" ;;
  esac
  return "$status"
}

case "$action" in
  create | follow) "$action" ;;
  install | start)
    if running; then fail "a run is going on on $name ($follow_it)"; fi
    "$action" "$@"
    ;;
  delete) call "${vm[@]}" delete "$name" "${place[@]}" ;;
  run)
    create
    if running; then
      log "a run is going on on $name: this follows it, and leaves aside what stands behind --"
    else
      install
      start "$@"
    fi
    follow
    ;;
esac
