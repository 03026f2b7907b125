#!/usr/bin/env bash
# usage: .ci/examples.sh
#
# Runs every example as root and as a plain user, and checks its exit status: 0 if it has shown what
# it claims, 2 if the user lacks the privilege for it.
set -euo pipefail
# shellcheck source=.ci/lib
. "$(dirname "$0")/lib"
usage "$@"
need setpriv util-linux || exit 0
((EUID == 0)) || missing 'root, for half of the runs' 'Run the script as root' || true

public=$(mktemp -d)
trap 'rm -rf "$public"' EXIT
chmod 755 "$public"

cargo build --release --workspace --examples
target=$(target_directory)

failures=0
# check STATUS USER COMMAND...: the command, run as root or user, must exit with STATUS within a minute.
check() {
    local expected=$1 user=$2 status=0
    shift 2
    printf '\n-- as %s: %s\n' "$user" "${*##*/}"
    if [[ $user == user ]] && ((EUID == 0)); then
        set -- setpriv --reuid 1000 --regid 1000 --clear-groups "$@"
    fi
    timeout 60 "$@" || status=$?
    ((status == expected)) && return
    printf 'exit status %d, not %d\n' "$status" "$expected" >&2
    failures=$((failures + 1))
}

# example NAME AS_ROOT AS_USER [ARGUMENTS...]: its two exit statuses.
example() {
    local name=$1 as_root=$2 as_user=$3
    shift 3
    # A plain user cannot read root's build folder, so copy the program.
    install -m 755 "$target/release/examples/$name" "$public"
    ((EUID != 0)) || check "$as_root" root cargo run --quiet --release --example "$name" -- "$@"
    check "$as_user" user "$public/$name" "$@"
}

example drop_privileges 0 0
example drop_privileges 0 0 --threads 200
example drop_privileges 1 1 --per-thread
example inspect 0 0
example inspect 0 0 --json
example rayon_pool 0 0
example landlock_sandbox 0 0
example capabilities 0 2
example tokio_server 0 2
example tokio_server 0 0 --port 8080
example interposed 0 0

((failures == 0)) || { printf '\n%d runs ended with another status.\n' "$failures" >&2; exit 1; }
