# shellcheck shell=bash
# How every launcher speaks. Each sources this, sets its help and turns --dry-run into `dry_run`.

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || { echo "$0: Bash 4.4 or later is needed" >&2 && exit 2; }
usage='' dry_run=''

show_help() {
  printf '%s\n' "$usage"
  exit
}

fail() { # PROBLEM
  printf '%s: %s\n\n%s\n' "$0" "$1" "$usage" >&2
  exit 2
}

need_count() { # OPTION VALUE
  [[ $2 =~ ^[1-9][0-9]*$ ]] || fail "$1=$2 is no number from 1 on"
}

need_config() { # FLAG ...
  [[ " $*" == *" --config="?* ]] || fail "-- --config=FILE is missing"
}

run() { # COMMAND ..., or prints it as a shell would read it
  if [[ ! $dry_run ]]; then
    "$@"
    return
  fi
  local word words=() quote="'\\''"
  for word; do
    [[ $word =~ ^[[:alnum:]_./:=,@%+-]+$ ]] || word="'${word//\'/$quote}'"
    words+=("$word")
  done
  echo "${words[*]}"
}
