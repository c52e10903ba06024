#!/usr/bin/env bash
# What SLURM runs in the root of the checkout, with the flags of gptjax.main; launch.sh submits it.
#
# SIGTERM reaches the processes and not this script: they save and exit with 143, and the job is queued again.
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

# Every process has to see all GPUs of its node, since jax gives it the one of its number there (SLURM_LOCALID). The
# first to end must not have the others killed while they save; where one dies, jax's heartbeat ends the others.
options=(--gpu-bind=none --kill-on-bad-exit=0)
[[ ! ${SLURM_CPUS_PER_TASK-} ]] || options+=("--cpus-per-task=$SLURM_CPUS_PER_TASK")

status=0
srun "${options[@]}" .venv/bin/python -m gptjax.main "$@" || status=$?
[[ $status != 143 ]] || scontrol requeue "$SLURM_JOB_ID"
exit "$status"
