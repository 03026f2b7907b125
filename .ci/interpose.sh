#!/usr/bin/env bash
# Feature `interpose` changes every thread of a program, so that its tests are a program of their own.
set -euo pipefail
cd "$(dirname "$0")/.."
host=$(rustc -vV | sed -n 's/^host: //p')
interpose=(-p psx-spawn --features interpose)
cargo clippy "${interpose[@]}" --all-targets -- -D warnings
RUSTDOCFLAGS=-Dwarnings cargo doc -p psx-spawn --no-deps --all-features
cargo test "${interpose[@]}" --test interpose
# The same without unwinding, where a C thread that ends by pthread_exit or cancellation would meet
# its end in a frame of Rust's.
RUSTFLAGS='-C panic=abort' cargo test "${interpose[@]}" --test interpose --target "$host"

# With a static libc, by rustc's linker call and by a C compiler's.
RUSTFLAGS='-C target-feature=+crt-static' cargo test "${interpose[@]}" --test interpose --target "$host"
RUSTFLAGS='-C target-feature=+crt-static' cargo clippy "${interpose[@]}" --target "$host" -- -D warnings
program=$(mktemp)
trap 'rm -f "$program"' EXIT
cargo rustc "${interpose[@]}" --lib --crate-type staticlib
target=$(cargo metadata --format-version 1 --no-deps |
    sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
# As docs/integration.md says: psx's pthread_create stands in front of the libc's, so that the linker
# takes the libc's in only when asked to. (It also warns that std's name look-ups want a shared libc.)
cc -static -pthread -o "$program" psx-spawn/tests/interpose/static.c \
    "$target/debug/libpsx.a" -Wl,-u,__pthread_create 2>/dev/null
"$program"
echo 'static C program: its threads start and end'
