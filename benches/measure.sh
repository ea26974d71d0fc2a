#!/bin/sh
# Runs the verbs of `sixfold bench` one after the other, and keeps what each said with the machine, the commit and the command.
#
#   benches/measure.sh DIR [quick]
#
# DIR/NAME.json is then what `cargo run --release -p sixfold-benches --example report -- DIR OUT` makes RESULTS.md and pictures of.
# `quick` shows only that everything works: its figures are too short to be quoted. SIXFOLD names the program (target/dist/sixfold).
# A verb that fails leaves no file, and its last words in DIR/NAME.log.
set -u

dir=${1:?where to keep the results}
quick=${2:-}
root=$(cd "$(dirname "$0")/.." && pwd)
sixfold=${SIXFOLD:-$root/target/dist/sixfold}
mkdir -p "$dir" || exit 1

text() { printf '%s' "$1" | tr -d '\\"' | tr '\n\t' '  '; }

machine=$(text "$(nproc) x $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), \
$(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo), Linux $(uname -r), \
$(stat -f -c %T "${TMPDIR:-/tmp}") file system")
commit=$(git -C "$root" rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
if [ -n "$(git -C "$root" status --porcelain 2>/dev/null | head -1)" ]; then
    commit="$commit with changes"
fi

# measure NAME ARGUMENTS...: the last line of what the verb says is its JSON.
measure() {
    name=$1
    shift
    printf '%s: sixfold bench %s\n' "$name" "$*" >&2
    load=$(cut -d ' ' -f 1 /proc/loadavg)
    if "$sixfold" bench "$@" --json >"$dir/$name.log" 2>&1; then
        printf '{"command":"sixfold bench %s --json","commit":"%s","machine":"%s","date":"%s","load_before":%s,"quick":%s,"result":%s}\n' \
            "$(text "$*")" "$commit" "$machine" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$load" \
            "$([ -n "$quick" ] && echo true || echo false)" "$(tail -n 1 "$dir/$name.log")" >"$dir/$name.json"
    else
        printf '%s failed: %s\n' "$name" "$(tail -n 1 "$dir/$name.log")" >&2
    fi
}

if [ -n "$quick" ]; then
    measure commit commit --clients 1,16,64 --seconds 1 --with-floor
    measure rate commit --clients 64 --rate 500 --seconds 1
    for load in update ordered random; do
        measure "wire-$load" wire --load "$load" --seconds 1 --keys 5000
    done
    measure read read --keys 20000 --rounds 1 --round-ms 100
    measure scan scan --keys 20000 --rounds 1 --round-ms 100
    measure miss miss --mib 16 --seconds 2 --reads 1000
    measure mixed mixed --keys 2000 --seconds 1
    measure versus-64 versus --clients 64 --seconds 1
    measure reopen reopen --unfolded 8MiB
    measure outage outage --seconds 5 --cases slow-node,az-gone
    measure crash crash --cycles 3
    measure disk disk
    exit 0
fi

measure commit commit --clients 1,4,16,64,256,1024 --seconds 10 --with-floor
measure rate commit --clients 256 --rate 1000,5000,20000 --seconds 10
for load in update ordered random; do
    measure "wire-$load" wire --load "$load" --value-bytes 256 --clients 64 --seconds 10
done
measure read read
measure scan scan
measure miss miss
measure mixed mixed --seconds 10
for clients in 1 64 256; do
    measure "versus-$clients" versus --clients "$clients" --seconds 10
done
measure reopen reopen --unfolded 8MiB,64MiB,512MiB
measure outage outage --seconds 10
measure crash crash --cycles 166
measure disk disk
measure node node
measure repair repair
