#!/usr/bin/env bash
# Builds psx, and tests the two published packages, with the oldest Rust that they promise to work with,
# as Debian packages it.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=.ci/packages
. .ci/packages

# shellcheck disable=SC2119  # no further packages
if ! debian_rust; then
    echo "msrv: Debian's rustc-web 1.85 cannot be had here, so nothing is tried with it"
    exit 0
fi
rustc --version
cargo check --locked -p psx-examples --all-targets
cargo test --locked -p psx-core
cargo test --locked -p psx-spawn --lib --test runtime
