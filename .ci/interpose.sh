#!/usr/bin/env bash
# usage: .ci/interpose.sh
#
# The feature `interpose`, which changes every thread of a program, so that its tests are a program of
# their own.
set -euo pipefail
# shellcheck source=.ci/lib
. "$(dirname "$0")/lib"
usage "$@"
need cc gcc libc6-dev || exit 0

host=$(rustc -vV | sed -n 's/^host: //p')
interpose=(-p psx-spawn --features interpose)
cargo clippy "${interpose[@]}" --all-targets -- -D warnings
RUSTDOCFLAGS=-Dwarnings cargo doc -p psx-spawn --no-deps --all-features
tested cargo test "${interpose[@]}" --test interpose
# The same without unwinding, where pthread_exit or the cancellation of a C thread would unwind
# through a Rust frame.
RUSTFLAGS='-C panic=abort' tested cargo test "${interpose[@]}" --test interpose --target "$host"

# With a static libc, linked by rustc and by a C compiler.
RUSTFLAGS='-C target-feature=+crt-static' tested cargo test "${interpose[@]}" --test interpose --target "$host"
RUSTFLAGS='-C target-feature=+crt-static' cargo clippy "${interpose[@]}" --target "$host" -- -D warnings
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cargo rustc "${interpose[@]}" --lib --crate-type staticlib
# As docs/integration.md says: psx's pthread_create comes before the libc's, so the linker includes
# the libc's only when asked to. (The linker's warnings about std's use of getaddrinfo are dropped.)
cc -static -pthread -o "$scratch/program" psx-spawn/tests/interpose/static.c \
    "$(target_directory)/debug/libpsx.a" -Wl,-u,__pthread_create 2>"$scratch/log" ||
    { cat "$scratch/log" >&2; exit 1; }
"$scratch/program"
echo 'static C program: its threads start and end'
