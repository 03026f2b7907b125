#!/usr/bin/env bash
# Feature `interpose` changes every thread of a program, so that its tests are a program of their own.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo clippy -p psx-spawn --all-targets --features interpose -- -D warnings
RUSTDOCFLAGS=-Dwarnings cargo doc -p psx-spawn --no-deps --all-features
cargo test -p psx-spawn --features interpose --test interpose
# The same without unwinding, where a C thread that ends by pthread_exit or cancellation would meet
# its end in a frame of Rust's.
RUSTFLAGS='-C panic=abort' cargo test -p psx-spawn --features interpose --test interpose \
    --target "$(rustc -vV | sed -n 's/^host: //p')"
