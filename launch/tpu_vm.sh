#!/usr/bin/env bash
# Cloud TPU VMs, from the queue to the end of a run. Knows gcloud; the processes find each other by jax itself.
set -euo pipefail
. "$(dirname "$0")/command_line.sh"

usage=$(
  cat <<'TEXT'
usage: launch/tpu_vm.sh VERB NAME --zone=ZONE [OPTION ...] [-- FLAGS OF gptjax.main]

Verbs, in the order of use:
  create     ask for NAME, a queued resource; needs --type
  status     say whether it is there yet
  install    copy this checkout to every worker and install it there
  start      start gptjax.main on every worker; needs -- --config=FILE
  tail       follow the log of the first worker
  stop       have the run save and end; start with the same flags goes on
  delete     give NAME back

  --zone=ZONE          where, such as us-east5-a
  --type=TYPE          kind and size, such as v4-32, v5litepod-256, v5p-128, v6e-256
  --slices=N           so many of them, joined by the data centre's network (default: 1)
  --version=VERSION    system of the workers (default: the one for TYPE)
  --nfs=HOST:/SHARE    install mounts this share at /mnt/gptjax on every worker
  --dry-run            print the commands instead of running them
  --help               this text
Other options go to gcloud as they are: --spot, --project=..., --internal-ip

Several workers need a --workdir and a data.path that all of them see, such as under /mnt/gptjax.
TEXT
)

[[ " ${1-} ${2-} " == *" --help "* ]] && show_help
verb=${1-} name=${2-}
case $verb in
  create | status | install | start | tail | stop | delete) ;;
  '') fail "VERB is missing" ;;
  *) fail "VERB=$verb is none of create, status, install, start, tail, stop and delete" ;;
esac
[[ $name && $name != -* ]] || fail "NAME is missing"
shift 2

zone='' type='' slices=1 version='' nfs='' others=()
while (($#)) && [[ $1 != -- ]]; do
  case $1 in
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --slices=*) slices=${1#*=} ;;
    --version=*) version=${1#*=} ;;
    --nfs=*) nfs=${1#*=} ;;
    --dry-run) dry_run=yes ;;
    --help) show_help ;;
    --*) others+=("$1") ;;
    *) fail "$1 is no option; flags of gptjax.main stand after --" ;;
  esac
  shift
done
(($#)) && shift
[[ $zone ]] || fail "--zone=ZONE is missing"
need_count --slices "$slices"
if [[ $verb == start ]]; then
  need_config "$@"
elif (($#)); then
  fail "$verb takes no flags of gptjax.main, and there is $1"
fi

where=("--zone=$zone" "${others[@]}")
on() { # WORKERS COMMAND
  run gcloud compute tpus queued-resources ssh "$name" "${where[@]}" "--node=$1" "--worker=$1" "--command=$2"
}

case $verb in
  create)
    [[ $type ]] || fail "--type=TYPE is missing"
    case ${version:+given}$type in
      given*) ;;
      v6e-*) version=v2-alpha-tpuv6e ;;
      v5p-*) version=v2-alpha-tpuv5 ;;
      v5litepod-*) version=v2-alpha-tpuv5-lite ;;
      v[234]-*) version=tpu-ubuntu2204-base ;;
      *) fail "--type=$type is of no kind whose system is known; add --version=VERSION" ;;
    esac
    nodes=--node-id=$name
    ((slices == 1)) || nodes=--node-count=$slices
    run gcloud compute tpus queued-resources create "$name" "${where[@]}" \
      "--accelerator-type=$type" "--runtime-version=$version" "$nodes"
    ;;
  status)
    run gcloud compute tpus queued-resources describe "$name" "${where[@]}" '--format=value(state.state)'
    ;;
  install)
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    # What git leaves out as well: some of it is large, and some of it changes while it is read.
    run tar -czf "$folder/gptjax.tar.gz" -C "$(dirname "$0")/.." --exclude=./.git --exclude=./.venv --exclude=./runs \
      --exclude=__pycache__ --exclude=.pytest_cache --exclude=.ruff_cache --exclude=.hypothesis --exclude='*.egg-info' .
    run gcloud compute tpus queued-resources scp "$folder/gptjax.tar.gz" "$name:" "${where[@]}" --node=all --worker=all
    # The workers' own Python is older than what gptjax needs; uv brings one along.
    on all "set -e
mkdir -p gptjax
tar -xzf gptjax.tar.gz -C gptjax
cd gptjax
python3 -m pip install --quiet --user uv
~/.local/bin/uv venv --quiet --allow-existing --python=3.12 .venv
~/.local/bin/uv pip install --quiet --python=.venv -e '.[tpu]'"
    [[ ! $nfs ]] || on all "set -e
sudo apt-get install --quiet --yes nfs-common
sudo mkdir -p /mnt/gptjax
mountpoint --quiet /mnt/gptjax || sudo mount -t nfs $(printf %q "$nfs") /mnt/gptjax"
    ;;
  start)
    on all "cd gptjax || exit
pid=\$(cat run.pid 2>/dev/null) && kill -0 \$pid 2>/dev/null && { echo 'a run is going on; stop it first' >&2; exit 1; }
nohup .venv/bin/python -m gptjax.main$(printf ' %q' "$@") >>run.log 2>&1 </dev/null &
echo \$! >run.pid"
    ;;
  tail)
    on 0 'tail -n 100 -F gptjax/run.log'
    ;;
  stop)
    # One signal and no more: a second one would end the run without a checkpoint.
    on all "cd gptjax || exit
pid=\$(cat run.pid 2>/dev/null) && kill -TERM \$pid 2>/dev/null || { echo 'no run is going on'; exit; }
tail --pid=\$pid -f /dev/null
tail -n 1 run.log"
    ;;
  delete)
    run gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force
    ;;
esac
