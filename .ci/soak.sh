#!/usr/bin/env bash
# A minute of everything at once.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo run --release --example soak -- --minutes 1
