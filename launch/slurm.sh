#!/usr/bin/env bash
# Trains in a Slurm job: submits itself with sbatch. What stands behind -- goes to
# python -m emanet_jax.main --distributed=auto, one process a GPU (or a node without GPUs).
#   ./launch/slurm.sh --nodes=2 --gpus-per-node=4 --time=08:00:00 --partition=gpu -- \
#       --config=configs/nyuv2.py --workdir=/shared/runs/nyuv2 --config.data.manual_dir=/shared/nyuv2
# Two minutes before the time is up, and at a pre-emption, the run saves; the job is then queued again and
# goes on. The project, its .venv and the workdir must be on a disk that all nodes share.
set -euo pipefail

usage="usage: launch/slurm.sh [--nodes=1] [--gpus-per-node=1] [--time=HH:MM:SS] [--dry-run] [SBATCH FLAG ...] -- ARGUMENT ...
  Any other --FLAG=VALUE goes to sbatch: --partition=, --account=, --cpus-per-task=, --mem=, --qos= ...
  jax[cuda12] is installed where there are GPUs; EXTRA=\"jax[cuda13]\" before the command replaces it.
  --dry-run prints the commands instead of running them."

say() { printf 'launch/slurm.sh: %s.\n' "$*" >&2; }
fault() { say "$1" && exit 1; }

# In the job, on its first node: starts a process a task, and asks for the job again if its time is up. At a
# pre-emption Slurm itself sends the processes SIGTERM and queues the job again (--requeue).
in_job() {
  local time_is_up="" interrupted="" status=127 now processes
  ./launch/local.sh true
  # srun no longer takes this from sbatch by itself
  [ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
  srun --kill-on-bad-exit=1 ./launch/local.sh python -m emanet_jax.main --distributed=auto "$@" &
  processes=$!
  trap 'interrupted=1 time_is_up=1; kill -TERM "$processes" || true' USR1 # srun passes it on
  trap 'interrupted=1' TERM # Slurm's own, which the processes get as well
  while :; do # a signal ends `wait` early
    now=0
    wait "$processes" || now=$?
    [ "$now" = 127 ] || status="$now" # 127: its status is known already
    [ -n "$interrupted" ] || break
    interrupted=""
  done
  if [ -n "$time_is_up" ] && [ "$status" = 0 ]; then
    say "the time is up: queueing job $SLURM_JOB_ID again"
    scontrol requeue "$SLURM_JOB_ID"
  fi
  exit "$status"
}

if [ "${1:-}" = in-job ]; then
  shift
  in_job "$@"
fi
# shellcheck source=launch/quoted.sh
source "$(dirname "${BASH_SOURCE[0]}")/quoted.sh" # sbatch runs a copy of this script alone
nodes=1 gpus=1 dry="" others=()
while [ $# -gt 0 ]; do
  case "$1" in
    --nodes=*) nodes="${1#*=}" ;;
    --gpus-per-node=*) gpus="${1#*=}" ;;
    --dry-run) dry=1 ;;
    --help) echo "$usage" && exit ;;
    --) shift && break ;;
    --ntasks*=* | --gpus-per-task=* | --gpu-bind=* | --signal=* | --chdir=*)
      fault "$1 is set by this script: every process finds its GPU by its number on the node" ;;
    --*=*) others+=("$1") ;;
    *) fault "'$1' is no --FLAG=VALUE; flags of the training stand behind --" ;;
  esac
  shift
done
[[ "$nodes" =~ ^[1-9][0-9]*$ ]] || fault "--nodes='$nodes' must be a number from 1 on"
[[ "$gpus" =~ ^[0-9]+$ ]] || fault "--gpus-per-node='$gpus' must be a number from 0 on"
workdir=""
for argument in "$@"; do
  case "$argument" in --workdir=*) workdir="${argument#*=}" ;; esac
done
[ -n "$workdir" ] || fault "the training needs its --workdir=..., behind --"

cd "$(dirname "${BASH_SOURCE[0]}")/.."
extra=(env "EXTRA=${EXTRA-jax[cuda12]}")
[ "$gpus" != 0 ] || [ -n "${EXTRA+set}" ] || extra=()
install=(${extra[@]+"${extra[@]}"} ./launch/local.sh true) # here: nodes often have no network
submit=(sbatch --job-name=emanet_jax "--nodes=$nodes" "--ntasks-per-node=$((gpus > 0 ? gpus : 1))")
[ "$gpus" = 0 ] || submit+=("--gpus-per-node=$gpus")
# The script alone gets the warning (B:), by a signal that scancel does not send: only a job that is to go on
# is queued again. The log of every start is added to the one before.
submit+=(--signal=B:USR1@120 --requeue --open-mode=append '--output=slurm-%j.log' "--chdir=$PWD")
submit+=(${others[@]+"${others[@]}"} launch/slurm.sh in-job "$@")

if [ -n "$dry" ]; then
  quoted "${install[@]}" && echo && quoted "${submit[@]}" && echo && exit
fi
command -v sbatch > /dev/null || fault "sbatch is not installed here: run this on a login node of the cluster"
"${install[@]}"
exec "${submit[@]}"
