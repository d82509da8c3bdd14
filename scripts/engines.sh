# Functions that scripts/flink and scripts/spark share; they are sourced at the root of the checkout.
# shellcheck shell=bash

die() {
  echo "scripts/${0##*/}: $*" >&2
  exit 1
}

need() {
  command -v "$1" >/dev/null || die "no $1 in PATH; install it, for example with: apt-get install $2"
}

# Makes job server and engine into one jar: make_jar POM FOLDER SIZE. The jar gets its final name only when it is complete.
make_jar() {
  local pom=$1 folder=$2 size=$3
  [[ $pom -nt $folder/job-server.jar ]] || return 0
  need mvn maven
  echo "making $folder/job-server.jar: downloads about $size, takes a minute ..." >&2
  rm -rf "$folder/job-server.part"
  mvn -B -q -f "$pom" package -Dfolder="$PWD/$folder/job-server.part" >"$folder/mvn.log" 2>&1 || explain "$folder/mvn.log"
  mv "$folder/job-server.part/job-server.jar" "$folder/job-server.jar"
  touch "$folder/job-server.jar"
  rm -rf "$folder/job-server.part"
}

# Prints one line that says why a download failed, and exits.
explain() {
  if grep -Eqi 'no space left' "$1"; then
    die "no space left on the device: 1 GB is needed under $PWD; free some space and run this again"
  elif grep -Eqi 'unknown host|timed out|connection|resolution|proxy' "$1"; then
    die "the package registry cannot be reached; check the network (or the proxy settings of pip and mvn) and run this again"
  fi
  die "$(grep -m1 -i 'error' "$1" | cut -c1-300); see $PWD/$1"
}

worker_python() {
  local python=${PYTHON:-$PWD/.venv/bin/python}
  "$python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("apache_beam") is None)' 2>/dev/null || die "$python: this Python has no Apache Beam; run scripts/setup, or set PYTHON"
  echo "$python"
}

# Starts a program in a process group of its own, so that stop can end it together with its children.
launch() {
  local run=$1 name=$2
  shift 2
  setsid "$@" </dev/null >"$run/$name.log" 2>&1 8>&- 9>&- &
  echo $! >"$run/pids/$name"
}

# Waits until the engine answers: await NAME RUN PORT. The caller defines `programs` and `is_up RUN PORT`.
await() {
  local engine=$1 run=$2 port=$3 name
  for _ in {1..120}; do
    is_up "$run" "$port" && return
    for name in "${programs[@]}"; do
      is_running "$run" "$name" || {
        stop "$run"
        die "the $name ended: $(grep -m1 -E 'Caused by|Error|Exception|in use' "$run/$name.log" | cut -c1-300); see $run/$name.log"
      }
    done
    sleep 0.5
  done
  stop "$run"
  die "$engine did not come up within a minute; see the logs in $run"
}

is_running() {
  [[ -f $1/pids/$2 ]] && kill -0 "$(<"$1/pids/$2")" 2>/dev/null
}

stop() {
  local file pid groups=()
  for file in "$1"/pids/*; do
    [[ -f $file ]] || continue
    pid=$(<"$file")
    # Only our own process: the number may belong to another program by now.
    if grep -qsE 'flink|spark|worker_pool_main|tfpipe' "/proc/$pid/cmdline"; then
      groups+=("-$pid")
    fi
    rm -f "$file"
  done
  if ((${#groups[@]})); then
    kill -TERM -- "${groups[@]}" 2>/dev/null || true
    for _ in {1..50}; do
      kill -0 -- "${groups[@]}" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL -- "${groups[@]}" 2>/dev/null || true
  fi
  rm -rf "$1/tmp"
}
