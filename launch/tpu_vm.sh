#!/usr/bin/env bash
# Trains on a Cloud TPU VM or pod slice: makes or reuses it, copies the tracked files, installs, runs on every
# worker and follows the log. What stands behind -- goes to python -m emanet_jax.main --distributed=auto.
#   ./launch/tpu_vm.sh --name=ema --zone=us-central2-b --type=v4-8 -- \
#       --config=configs/nyuv2.py --workdir=gs://bucket/nyuv2 --config.data.data_dir=data
#   ./launch/tpu_vm.sh ... --spot --queued -- ...           # cheaper; comes back after a pre-emption
#   ./launch/tpu_vm.sh follow --name=ema --zone=us-central2-b
#   ./launch/tpu_vm.sh delete --name=ema --zone=us-central2-b
# Ctrl-C ends the following only; the same command follows again. docs/clusters.md has the rest.
set -euo pipefail
# shellcheck source=launch/quoted.sh
source "$(dirname "${BASH_SOURCE[0]}")/quoted.sh"

usage="usage: launch/tpu_vm.sh [run|follow|delete] --name=NAME --zone=ZONE [--project=PROJECT] [--queued] [--dry-run]
  run (the default) also takes:
    --type=v4-8         accelerator type
    --version=VERSION   runtime version (default: the one that fits the type)
    --spot              may be pre-empted: it is then made again and the run goes on; needs --workdir=gs://...
    --queued            ask by a queued resource (give it to follow and delete as well)
    --keep              never delete the VM; otherwise one that this call made is deleted after a run that
                        ended well with its workdir on gs://
    --wait=MINUTES      for the VM (default 30, with --spot or --queued 1440)
    -- ARGUMENT ...     of python -m emanet_jax.main
  --dry-run prints the commands instead of running them."

say() { printf 'launch/tpu_vm.sh: %s.\n' "$*" >&2; }
costs() { printf '%s goes on costing until you delete it: %s' "$name" "$delete_it"; }
fault() { # SENTENCE [STATUS]
  say "$1${there:+ ($(costs))}"
  exit "${2:-1}"
}

there="" # 1 as soon as there is a VM
action=run name="" zone="" type="" version="" wait_minutes="" project=() spot=() queued="" keep="" dry=""
case "${1:-}" in run | follow | delete) action="$1" && shift ;; esac
while [ $# -gt 0 ]; do
  case "$1" in
    --name=*) name="${1#*=}" ;;
    --zone=*) zone="${1#*=}" ;;
    --type=*) type="${1#*=}" ;;
    --version=*) version="${1#*=}" ;;
    --project=*) project=("--project=${1#*=}") ;;
    --wait=*) wait_minutes="${1#*=}" ;;
    --spot) spot=(--spot) ;;
    --queued) queued=1 ;;
    --keep) keep=1 ;;
    --dry-run) dry=1 ;;
    --help) echo "$usage" && exit ;;
    --) shift && break ;;
    *) fault "'$1' is no flag of this script (--help lists them); flags of the training stand behind --" ;;
  esac
  shift
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ "$name" =~ ^[a-z]([a-z0-9-]{0,58}[a-z0-9])?$ ]] ||
  fault "--name='$name' must be 1 to 60 small letters, digits and hyphens, from a letter on and not to a hyphen"
[[ "$zone" =~ ^[a-z]+-[a-z]+[0-9]+-[a-z]$ ]] || fault "--zone='$zone' must be a zone such as us-central2-b"
workdir=""
if [ "$action" = run ]; then
  git rev-parse --quiet --verify HEAD > /dev/null 2>&1 || fault "$PWD is no git checkout with a commit, and only tracked files are copied"
  [[ "$type" =~ ^v[0-9]+[a-z]*-[0-9]+$ ]] || fault "--type='$type' must be an accelerator type such as v4-8"
  case "$version:$type" in
    :v[234]-*) version=tpu-ubuntu2204-base ;;
    :v5litepod-*) version=v2-alpha-tpuv5-lite ;;
    :v5p-*) version=v2-alpha-tpuv5 ;;
    :v6e-*) version=v2-alpha-tpuv6e ;;
    :*) fault "--type=$type has no known runtime version: give --version=..., one of 'gcloud compute tpus versions list --zone=$zone'" ;;
  esac
  for argument in "$@"; do
    case "$argument" in
      --workdir=*) workdir="${argument#*=}" ;;
      --config=*.py | --config=*.py:*)
        file="${argument#*=}" && file="${file%%:*}"
        git ls-files --error-unmatch -- "$file" > /dev/null 2>&1 ||
          fault "$argument is not tracked by git, and only tracked files are copied: 'git add $file' first"
        ;;
    esac
  done
  [ -n "$workdir" ] || fault "the training needs its --workdir=..., behind --"
  [[ -z "${spot[*]-}" || "$workdir" == gs://?* ]] ||
    fault "--workdir=$workdir is lost with a spot VM: --spot needs --workdir=gs://BUCKET/FOLDER"
fi
wait_minutes="${wait_minutes:-$([ -n "$queued${spot[*]-}" ] && echo 1440 || echo 30)}"
[[ "$wait_minutes" =~ ^[0-9]+$ ]] || fault "--wait='$wait_minutes' must be a whole number of minutes"
[ -n "$dry" ] || command -v gcloud > /dev/null ||
  fault "gcloud is not installed: see https://cloud.google.com/sdk/docs/install"

poll="${POLL_SECONDS:-20}"
place=("--zone=$zone" ${project[@]+"${project[@]}"} --quiet)
vm=(gcloud compute tpus tpu-vm)
asked=("${vm[@]}") state_key=state # what the VM was asked for with
[ -z "$queued" ] || asked=(gcloud compute tpus queued-resources) state_key=state.state
flags=(${project[@]+"${project[@]}"} ${queued:+--queued})
follow_again="./launch/tpu_vm.sh follow --name=$name --zone=$zone${flags[*]+ ${flags[*]}}"
delete_it="./launch/tpu_vm.sh delete --name=$name --zone=$zone${flags[*]+ ${flags[*]}}"

# Runs a command, or prints it; a failure is one sentence and its exit status.
call() {
  if [ -n "$dry" ]; then quoted "$@" && echo && return; fi
  local status=0
  "$@" || status=$?
  if [ "$status" != 0 ]; then
    fault "'$(quoted "${@:1:6}") ...' failed with exit status $status; its own words stand above" "$status"
  fi
}

# The state of the VM or queued resource; "" if there is none.
state() {
  local words status=0 answer
  words="$(mktemp)"
  answer="$("${asked[@]}" describe "$name" "${place[@]}" "--format=value($state_key)" 2> "$words")" || status=$?
  if [ "$status" != 0 ] && ! grep -q NOT_FOUND "$words"; then
    fault "gcloud cannot describe $name: $(head -n 1 "$words" | sed 's/[.]$//')" "$status"
  fi
  rm -f "$words"
  [ "$status" != 0 ] || printf '%s\n' "$answer"
}

create() { # [call]
  local version_flag="--version=$version"
  [ -z "$queued" ] || version_flag="--runtime-version=$version"
  "$@" "${asked[@]}" create "$name" ${queued:+"--node-id=$name"} "${place[@]}" "--accelerator-type=$type" \
    "$version_flag" ${spot[@]+"${spot[@]}"}
}

delete() { call "${asked[@]}" delete "$name" "${place[@]}" ${queued:+--force}; }

# Makes the VM unless it is there, and waits until it can be used. `made` says whether it was this script;
# with "again", what gcloud refuses (mostly for want of room) is asked for again.
ready() {
  local now deadline=$((SECONDS + 60 * 10#$wait_minutes))
  while :; do
    now="$(state)" || exit $?
    there="${now:+1}"
    case "$now" in
      READY | ACTIVE) return ;;
      STOPPED) call "${vm[@]}" start "$name" "${place[@]}" ;;
      PREEMPTED | TERMINATED | SUSPENDED | FAILED)
        [ -n "${spot[*]-}" ] || fault "$name is $now and must be deleted before the same command makes it again"
        say "$name is $now: deleting it to make it again"
        delete
        there=""
        continue
        ;;
      "")
        say "making $name ($type in $zone), which costs until it is deleted: $delete_it"
        if [ "${1:-}" != again ]; then
          create call
        elif ! create; then
          say "gcloud refused; asking again in $poll s"
        fi
        made=1
        ;;
      *) say "$name is $now" ;;
    esac
    now="$(state)" || exit $?
    there="${now:+1}"
    case "$now" in READY | ACTIVE) return ;; esac
    [ "$SECONDS" -lt "$deadline" ] ||
      fault "$name is ${now:-not there} after $wait_minutes minutes; --wait=MINUTES waits longer"
    sleep "$poll"
  done
}

on() { # WORKER COMMAND
  quietly "${vm[@]}" ssh "$name" "${place[@]}" "--worker=$1" "--command=$2"
}
quietly() { if [ -n "$dry" ]; then call "$@"; else "$@"; fi; }

# What the workers do, in ~/emanet_jax. libtpu comes in the version that JAX asks for; the VM's own Python may
# be too old. The new session outlives the SSH connection.
unpack='mkdir -p emanet_jax && rm -rf emanet_jax/emanet_jax emanet_jax/configs && tar -xzf emanet_jax.tar.gz -C emanet_jax'
# shellcheck disable=SC2016 # these are for the workers' shells
install='cd emanet_jax && PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv && PYTHON="$(~/.local/bin/uv python find 3.11 || { ~/.local/bin/uv python install --quiet 3.11 && ~/.local/bin/uv python find 3.11; })" EXTRA="jax[tpu]" ./launch/local.sh true'
# shellcheck disable=SC2016
program='./launch/local.sh python -m emanet_jax.main --distributed=auto "$@"; status=$?; if [ $status = 0 ] && tail -n 1 run.log | grep -q "run again to go on"; then status=stopped; fi; echo $status > run.status'
start="cd emanet_jax && rm -f run.status && { setsid nohup bash -c $(quoted "$program" run "$@") > run.log 2>&1 < /dev/null & echo \$! > run.pid; }"
# shellcheck disable=SC2016
follow='cd emanet_jax && tail -n +1 --pid="$(cat run.pid)" -F run.log'
# shellcheck disable=SC2016
status_of_run='cd emanet_jax 2> /dev/null && { cat run.status 2> /dev/null || { kill -0 "$(cat run.pid)" 2> /dev/null && echo running; }; } || echo none'

run_state() { on 0 "$status_of_run" | tail -n 1; }

install_and_start() {
  local archive=emanet_jax.tar.gz tree try
  # Changes that are not committed come along, as a commit that no branch knows.
  tree="$(git -c user.name=launch -c user.email=launch@localhost stash create)"
  [ -n "$dry" ] || archive="$(mktemp -d)/$archive"
  call git archive --format=tar.gz "--output=$archive" "${tree:-HEAD}"
  for try in 1 2 3; do # SSH answers some time after READY
    if quietly "${vm[@]}" scp "$archive" "$name:emanet_jax.tar.gz" "${place[@]}" --worker=all; then break; fi
    [ "$try" != 3 ] || fault "the code cannot be copied to $name; the words of gcloud stand above"
    sleep "$poll"
  done
  for try in "$unpack" "$install" "$start"; do
    call "${vm[@]}" ssh "$name" "${place[@]}" --worker=all "--command=$try"
  done
  started=1
}

# Follows the log until the run has ended, and leaves in `ended`: its exit status, "stopped" by a signal, or
# the state of a VM that can no longer be used.
watch() {
  local now drops=0 waits=0
  while :; do
    on 0 "$follow" || true # the connection may drop; the states tell what has happened
    if now="$(state)"; then
      case "$now" in READY | ACTIVE) ;; *) ended="${now:-gone}" && return ;; esac
      ended="$(run_state)" || ended=""
    else
      ended=""
    fi
    case "$ended" in
      none) fault "no run is going on on $name" ;;
      running) drops=0 && say "the connection to $name dropped; following again" ;;
      "")
        drops=$((drops + 1))
        [ "$drops" -lt 30 ] || fault "$name cannot be reached; $follow_again tries again"
        ;;
      # A pre-emption stops the run a little before the VM says so.
      stopped) if [ -n "${spot[*]-}" ] && [ "$waits" -lt 6 ]; then waits=$((waits + 1)); else return; fi ;;
      *) return ;;
    esac
    sleep "$poll"
  done
}

leave() {
  trap - INT
  echo >&2
  if [ -n "$started" ]; then
    say "the run goes on, and so do its costs; $follow_again shows it again, $delete_it ends both"
  else
    say "nothing was started${there:+; $(costs)}"
  fi
  exit 130
}

made="" started="" ended=""
case "$action" in
  delete) delete && exit ;;
  follow)
    if [ -n "$dry" ]; then on 0 "$follow" && exit; fi
    there="$(state)" || exit $?
    [ -n "$there" ] || fault "there is no $name in $zone; 'gcloud compute tpus tpu-vm list --zone=$zone' lists yours"
    started=1
    trap leave INT
    watch
    ;;
  run)
    if [ -n "$dry" ]; then create call && install_and_start "$@" && on 0 "$follow" && delete && exit; fi
    trap leave INT
    ready
    if [ -z "$made" ] && [ "$(run_state)" = running ]; then
      started=1
      say "a run is going on on $name: this follows it, and leaves aside what stands behind --"
    else
      install_and_start "$@"
    fi
    watch
    while [ -n "${spot[*]-}" ]; do
      case "$ended" in PREEMPTED | TERMINATED | SUSPENDING | SUSPENDED | FAILED) ;; *) break ;; esac
      say "$name was pre-empted ($ended): making it again; the run goes on from $workdir"
      ready again
      install_and_start "$@"
      watch
    done
    ;;
esac

case "$ended" in
  0)
    if [ -n "$made" ] && [ -z "$keep" ] && [[ "$workdir" == gs://* ]]; then
      say "the run has ended: deleting $name"
      delete
    else
      say "the run has ended; $(costs)"
    fi
    ;;
  stopped) say "a signal stopped the run, and the same command goes on; $(costs)" ;;
  gone) there="" && fault "$name is no longer there: somebody deleted it; the same command makes it again and goes on" ;;
  [0-9]*) fault "the run failed with exit status $ended, and its words stand above" "$ended" ;;
  *) fault "$name is $ended; delete it, and the same command makes it again and goes on from a workdir on gs://" ;;
esac
