#!/usr/bin/env bash
# usage: .ci/aarch64.sh
#
# Type-checks everything for aarch64, and runs the unit tests that qemu-user can run.
# docs/testing.md says what it cannot.
set -euo pipefail
# shellcheck source=.ci/lib
. "$(dirname "$0")/lib"
usage "$@"

# foreign: has apt know packages for arm64.
foreign() {
    dpkg --print-foreign-architectures | grep -qx arm64 && return
    if ((EUID == 0)); then dpkg --add-architecture arm64; else sudo -n dpkg --add-architecture arm64; fi
}

foreign || missing 'packages for arm64' 'Add them: dpkg --add-architecture arm64' || exit 0
debian_rust libstd-rust-web-dev:arm64=1.85.0* gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user ||
    exit 0
target=aarch64-unknown-linux-gnu
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=qemu-aarch64
# Static: a dynamic program hangs in its first pthread_create under this qemu.
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS='-Dwarnings -Ctarget-feature=+crt-static'
cargo check --locked --target $target -p psx-spawn -p psx-examples --all-targets
tested cargo test --locked --target $target -p psx-core --lib
tested cargo test --locked --target $target -p psx-examples --lib
