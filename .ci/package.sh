#!/usr/bin/env bash
# What would be published, each package built from nothing but what is in it. Those that are never
# published lean on files and packages that a package cannot hold, and are left out.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo publish --workspace --dry-run --allow-dirty
