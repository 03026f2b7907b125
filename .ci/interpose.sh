#!/usr/bin/env bash
# Feature `interpose` changes every thread of a program, so that its tests are a program of their own.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo clippy -p psx-spawn --all-targets --features interpose -- -D warnings
RUSTDOCFLAGS=-Dwarnings cargo doc -p psx-spawn --no-deps --all-features
cargo test -p psx-spawn --features interpose --test interpose
