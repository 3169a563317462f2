#!/usr/bin/env bash
#SBATCH --job-name=emanet_jax
#SBATCH --output=slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
# A Slurm job: one process a task, so ask for a task a GPU. From the project's root, on a login node:
#   EXTRA="jax[cuda12]" ./launch/local.sh true     # installs; nodes often have no network
#   sbatch --nodes=2 --ntasks-per-node=4 --gpus-per-node=4 --time=08:00:00 --partition=gpu launch/slurm.sh \
#       --config=nyuv2 --workdir=/shared/runs/nyuv2 --config.data.manual_dir=/shared/nyuv2
# Two minutes before the time is up (--signal) the run saves and exits with status 75, and the job is queued
# again. At a pre-emption Slurm itself does both. The project, its .venv and the workdir must be on a disk
# that all nodes share.
set -euo pipefail

fail() { printf 'launch/slurm.sh: %s.\n' "$*" >&2 && exit 1; }

[ -n "${SLURM_JOB_ID:-}" ] || fail "this is a job: sbatch [FLAG ...] launch/slurm.sh ARGUMENT ..."
[ -x launch/local.sh ] || fail "$PWD is not the project's root: call sbatch there"
[ "${SLURM_GPUS_ON_NODE:-0}" = 0 ] || [ "${SLURM_NTASKS_PER_NODE:-1}" = "$SLURM_GPUS_ON_NODE" ] ||
  fail "--ntasks-per-node=${SLURM_NTASKS_PER_NODE:-1} must be the $SLURM_GPUS_ON_NODE GPUs of a node: every process takes the GPU of its number"

# srun no longer takes this from sbatch by itself.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
# A process that has saved and exits with 75 must not end the others.
srun --kill-on-bad-exit=0 ./launch/local.sh python -m emanet_jax.main --distributed=auto "$@" &
processes=$! time_is_up="" interrupted="" status=127
trap 'interrupted=1 time_is_up=1; kill -TERM "$processes" || true' USR1 # srun passes it on
trap 'interrupted=1' TERM                                               # Slurm's own: the processes get it too
while :; do # a signal ends `wait` early
  now=0
  wait "$processes" || now=$?
  [ "$now" = 127 ] || status="$now" # 127: its status is known already
  [ -n "$interrupted" ] || break
  interrupted=""
done
if [ -n "$time_is_up" ] && [ "$status" = 75 ]; then
  printf 'launch/slurm.sh: the time is up: queueing job %s again.\n' "$SLURM_JOB_ID" >&2
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
