#!/usr/bin/env bash
# Submits a run to SLURM, with a process for each GPU; job.sh is what runs there.
set -euo pipefail
. "$(dirname "$0")/../command_line.sh"

usage=$(
  cat <<'TEXT'
usage: launch/slurm/launch.sh [OPTION ...] -- FLAGS OF gptjax.main

  launch/slurm/launch.sh --nodes=32 --time=24:00:00 -- --config=experiments/gpt3_13b.py

  --nodes=N            nodes (default: 1)
  --gpus-per-node=N    GPUs of a node, each with a process of its own (default: 8)
  --dry-run            print the command instead of running it
  --help               this text
Other options go to sbatch as they are: --time=..., --partition=..., --cpus-per-task=..., --job-name=...

Two minutes before the time is up the run saves and the job is queued again, until the last step is reached;
--signal=TERM@SECONDS changes the two minutes. scancel ends a job for good.
Logs are runs/<job name>-<job id>.log. All nodes have to see the checkout, --workdir and data.path.
TEXT
)

nodes=1 gpus=8 others=()
while (($#)) && [[ $1 != -- ]]; do
  case $1 in
    --nodes=*) nodes=${1#*=} ;;
    --gpus-per-node=*) gpus=${1#*=} ;;
    --dry-run) dry_run=yes ;;
    --help) show_help ;;
    --*) others+=("$1") ;;
    *) fail "$1 is no option; flags of gptjax.main stand after --" ;;
  esac
  shift
done
(($#)) && shift
need_count --nodes "$nodes"
need_count --gpus-per-node "$gpus"
need_config "$@"

for flag in "$@"; do
  [[ $flag != --config=* ]] || job=$(basename "${flag#*=}" .py)
done
root=$(cd "$(dirname "$0")/../.." && pwd)
run mkdir -p "$root/runs" # SLURM drops the log without a word where its folder is missing
run sbatch "--chdir=$root" "--job-name=$job" --output=runs/%x-%j.log \
  "--nodes=$nodes" "--ntasks-per-node=$gpus" "--gpus-per-node=$gpus" "${others[@]}" "$root/launch/slurm/job.sh" "$@"
