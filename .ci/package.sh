#!/usr/bin/env bash
# What would be published: each package by itself, built from nothing but what is in it.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo package --workspace --allow-dirty --no-verify
cargo package -p psx-core -p psx-spawn --allow-dirty
