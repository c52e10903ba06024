#!/usr/bin/env bash
# Every combination of some options, a run each: one after the other here, or handed to another launcher.
set -euo pipefail
. "$(dirname "$0")/command_line.sh"

usage=$(
  cat <<'TEXT'
usage: launch/sweep.sh --config=FILE --vary=OPTION=VALUE,VALUE,... [--vary=...] [OPTION ...] [-- FLAGS OF gptjax.main]

  launch/sweep.sh --config=experiments/small.py --vary=optim.peak_lr=1e-3,3e-3 --vary=seed=0,1,2
  launch/sweep.sh --config=experiments/gpt2_124m.py --vary=seed=0,1 \
    --launcher='launch/slurm/launch.sh --nodes=1 --job-name={run} --' -- --config.optim.num_steps=20_000

  --config=FILE         an experiment
  --vary=OPTION=VALUES  an option and its values, between commas; several --vary are combined
  --workdir=DIR         holds a folder for each run (default: runs/sweep_<experiment>)
  --launcher=COMMAND    what stands before the flags of a run (default: .venv/bin/python -m gptjax.main)
                        {run} in it is the name of the run, such as seed=0
  --dry-run             print the commands instead of running them
  --help                this text
The flags after -- are those of every run.

The same command again goes on: runs that are done say so and end at once. A run that fails does not stop the others.
Exit codes: 0 all went well, 1 some failed, 2 a mistake in the flags, 130 and 143 stopped.
TEXT
)

config='' vary=() workdir='' launcher='.venv/bin/python -m gptjax.main'
while (($#)) && [[ $1 != -- ]]; do
  case $1 in
    --config=*) config=${1#*=} ;;
    --vary=?*=?*) vary+=("${1#*=}") ;;
    --vary*) fail "$1 names no option with values; write --vary=optim.peak_lr=1e-3,3e-3" ;;
    --workdir=*) workdir=${1#*=} ;;
    --launcher=*) launcher=${1#*=} ;;
    --dry-run) dry_run=yes ;;
    --help) show_help ;;
    *) fail "$1 is no option; flags of every run stand after --" ;;
  esac
  shift
done
(($#)) && shift
[[ $config ]] || fail "--config=FILE is missing"
((${#vary[@]})) || fail "--vary=OPTION=VALUE,VALUE is missing"
: "${workdir:=runs/sweep_$(basename "$config" .py)}"
cd "$(dirname "$0")/.."

runs=('') # each is OPTION=VALUE for every --vary, a tab after each
for line in "${vary[@]}"; do
  IFS=, read -ra values <<<"${line#*=}"
  longer=()
  for start in "${runs[@]}"; do
    for value in "${values[@]}"; do longer+=("$start${line%%=*}=$value"$'\t'); done
  done
  runs=("${longer[@]}")
done

failed=()
for line in "${runs[@]}"; do
  IFS=$'\t' read -ra settings <<<"$line"
  name=$(IFS=, && echo "${settings[*]//\//_}")
  read -ra command <<<"${launcher//'{run}'/"$name"}"
  [[ $dry_run ]] || echo "--- $name"
  status=0
  run "${command[@]}" "--config=$config" "--workdir=$workdir/$name" "${settings[@]/#/--config.}" "$@" || status=$?
  case $status in
    0) ;;
    130 | 143) exit "$status" ;;
    *) failed+=("$name (exit code $status)") ;;
  esac
done
((${#failed[@]} == 0)) && exit
printf '%s\n' "${#failed[@]} of ${#runs[@]} runs failed:" "${failed[@]/#/  }" >&2
exit 1
