#!/usr/bin/env bash
# Runs every integration example, as root (where this is root) and as a plain user, and looks at
# its exit status: 0 if it has shown what it claims, 2 if this user lacks the privilege for it.
set -euo pipefail
cd "$(dirname "$0")/.."

public=$(mktemp -d)
trap 'rm -rf "$public"' EXIT
chmod 755 "$public"

cargo build --release --workspace --examples
target=$(cargo metadata --format-version 1 --no-deps |
    sed 's/.*"target_directory":"\([^"]*\)".*/\1/')

failures=0
# judge WANTED WHO COMMAND...: the command, run by WHO, must exit with WANTED, in a minute at most.
judge() {
    local wanted=$1 who=$2 status=0
    shift 2
    printf '\n-- as %s: %s\n' "$who" "${*##*/}"
    if [[ $who == root ]]; then
        timeout 60 "$@" || status=$?
    elif ((EUID == 0)); then
        timeout 60 setpriv --reuid 1000 --regid 1000 --clear-groups "$@" || status=$?
    else
        timeout 60 "$@" || status=$?
    fi
    ((status == wanted)) && return
    printf 'exit status %d, not %d\n' "$status" "$wanted" >&2
    failures=$((failures + 1))
}

# example NAME AS_ROOT AS_USER [ARGUMENTS...]: its two exit statuses.
example() {
    local name=$1 as_root=$2 as_user=$3
    shift 3
    # A plain user may not look into the build folder: he gets a copy.
    install -m 755 "$target/release/examples/$name" "$public"
    ((EUID != 0)) || judge "$as_root" root cargo run --quiet --release --example "$name" -- "$@"
    judge "$as_user" user "$public/$name" "$@"
}

example inspect 0 0
example inspect 0 0 --json
example rayon_pool 0 0
example landlock_sandbox 0 0
example capabilities 0 2
example tokio_server 0 2
example tokio_server 0 0 --port 8080
example interposed 0 0

((failures == 0)) || { printf '\n%d runs ended with another status.\n' "$failures" >&2; exit 1; }
