#!/usr/bin/env bash
# Type-checks everything for aarch64, and runs there, under qemu, what qemu can run.
# docs/testing.md says what it cannot.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=.ci/packages
. .ci/packages

# foreign: has apt know packages for arm64.
foreign() {
    dpkg --print-foreign-architectures | grep -qx arm64 && return
    if ((EUID == 0)); then dpkg --add-architecture arm64; else sudo -n dpkg --add-architecture arm64; fi
} 2>/dev/null

if ! { foreign && debian_rust libstd-rust-web-dev:arm64=1.85.0* gcc-aarch64-linux-gnu \
    libc6-dev-arm64-cross qemu-user; }; then
    echo "aarch64: Debian's cross compiler and qemu-user cannot be had here, so nothing is tried"
    exit 0
fi
target=aarch64-unknown-linux-gnu
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=qemu-aarch64
# Static: a dynamic program hangs in its first pthread_create under this qemu.
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS='-Dwarnings -Ctarget-feature=+crt-static'
cargo check --locked --target $target -p psx-spawn -p psx-examples --all-targets
cargo test --locked --target $target -p psx-core --lib
cargo test --locked --target $target -p psx-examples --lib
