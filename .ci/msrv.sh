#!/usr/bin/env bash
# usage: .ci/msrv.sh
#
# Builds psx, and tests the two published packages, with the oldest supported Rust, as Debian 12
# packages it.
set -euo pipefail
# shellcheck source=.ci/lib
. "$(dirname "$0")/lib"
usage "$@"

# shellcheck disable=SC2119  # no further packages
debian_rust || exit 0
rustc --version
cargo check --locked -p psx-examples --all-targets
tested cargo test --locked -p psx-core
tested cargo test --locked -p psx-spawn --lib --test runtime
