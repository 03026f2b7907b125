#!/usr/bin/env bash
# How much stack the handler needs with optimisation: what docs/signal-safety.md promises.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo test --release -p psx-spawn --test runtime -- stack::
