#!/usr/bin/env bash
# Submits a run to TPU slices of a GKE cluster: fills in jobset.yaml and hands it to kubectl.
set -euo pipefail
. "$(dirname "$0")/../command_line.sh"

usage=$(
  cat <<'TEXT'
usage: launch/gke/launch.sh NAME --topology=TOPOLOGY --image=IMAGE --claim=CLAIM [...] -- FLAGS OF gptjax.main

  launch/gke/launch.sh gpt3 --topology=v5p:8x8x8 --image=IMAGE --claim=CLAIM -- \
    --config=experiments/gpt3_175b.py --workdir=/mnt/gptjax/runs/gpt3 --config.data.path=/mnt/gptjax/data

  --topology=TOPOLOGY  chips of a slice, in the words of gptjax.plan: v4, v5e, v5p or v6e, and a shape
  --image=IMAGE        container image of this checkout; launch/gke/Dockerfile makes it
  --claim=CLAIM        volume claim that many nodes may write to, mounted at /mnt/gptjax
  --slices=N           slices, each a node pool (default: 1)
  --chips-per-host=N   chips of a node (default: 4)
  --restarts=N         it starts again so often after an early end (default: 20), but never after a mistake in its flags
  --dry-run            print the manifest and the command instead of running it
  --help               this text
Other options go to kubectl as they are: --namespace=..., --context=...

kubectl logs -f -l jobset.sigs.k8s.io/jobset-name=NAME follows it; kubectl delete jobset NAME has it save and end.
TEXT
)

[[ ${1-} != --help ]] || show_help
[[ ${1-} && $1 != -* ]] || fail "NAME is missing"
name=$1
[[ $name =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] || fail "NAME=$name is not 1 to 40 small letters, digits and dashes"
shift

topology='' image='' claim='' slices=1 chips_per_host='' restarts=20 others=()
while (($#)) && [[ $1 != -- ]]; do
  case $1 in
    --topology=*) topology=${1#*=} ;;
    --image=*) image=${1#*=} ;;
    --claim=*) claim=${1#*=} ;;
    --slices=*) slices=${1#*=} ;;
    --chips-per-host=*) chips_per_host=${1#*=} ;;
    --restarts=*) restarts=${1#*=} ;;
    --dry-run) dry_run=yes ;;
    --help) show_help ;;
    --*) others+=("$1") ;;
    *) fail "$1 is no option; flags of gptjax.main stand after --" ;;
  esac
  shift
done
(($#)) && shift
for option in topology image claim; do
  [[ ${!option} ]] || fail "--$option is missing"
done
need_count --slices "$slices"
need_count --restarts "$restarts"
need_config "$@"

case $topology in
  v4:*) accelerator=tpu-v4-podslice ;;
  v5e:*) accelerator=tpu-v5-lite-podslice ;;
  v5p:*) accelerator=tpu-v5p-slice ;;
  v6e:*) accelerator=tpu-v6e-slice ;;
  *) fail "--topology=$topology is no TPU of GKE; try v5p:4x4x4 or v5e:16x16" ;;
esac
shape=${topology#*:}
[[ $shape =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] || fail "--topology=$topology has no shape; try v5p:4x4x4 or v5e:16x16"
chips=$((${shape//x/*}))
: "${chips_per_host:=$((chips < 4 ? chips : 4))}"
need_count --chips-per-host "$chips_per_host"
((chips % chips_per_host == 0)) || fail "--chips-per-host=$chips_per_host does not divide the $chips chips of $topology"

json() { # TEXT
  local text=${1//\\/\\\\}
  printf '"%s"' "${text//\"/\\\"}"
}
flags=$(for flag in "$@"; do printf '%s, ' "$(json "$flag")"; done)

manifest=$(cat "$(dirname "$0")/jobset.yaml")
fill() { # PLACEHOLDER VALUE
  [[ $manifest == *"\${$1}"* ]] || fail "jobset.yaml has no \${$1}"
  manifest=${manifest//"\${$1}"/"$2"}
}
fill NAME "$name"
fill SLICES "$slices"
fill HOSTS "$((chips / chips_per_host))"
fill CHIPS_PER_HOST "$chips_per_host"
fill ACCELERATOR "$accelerator"
fill SHAPE "$shape"
fill RESTARTS "$restarts"
fill IMAGE "$(json "$image")"
fill CLAIM "$(json "$claim")"
fill FLAGS "${flags%, }"
[[ ! $manifest =~ \$\{[A-Z_]*\} ]] || fail "jobset.yaml or a flag holds ${BASH_REMATCH[0]}, which nothing fills in"

[[ ! $dry_run ]] || printf '%s\n' "$manifest"
run kubectl apply -f - "${others[@]}" <<<"$manifest"
