#!/usr/bin/env bash
# The list of entries under AddressSanitizer, against links that outlive their entries. Needs a
# nightly toolchain; without one it says so and leaves it at that.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! rustup run nightly rustc --version 2>/dev/null; then
    echo "asan: no nightly toolchain here, so the list is not run under AddressSanitizer"
    exit 0
fi
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS=-Zsanitizer=address \
    cargo +nightly test -p psx-core --lib --no-default-features --target "$host" \
    --target-dir "${CARGO_TARGET_DIR:-target}/asan" -- registry::list
