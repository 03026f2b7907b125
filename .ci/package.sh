#!/usr/bin/env bash
# usage: .ci/package.sh
#
# Builds each published package from its own files alone. Packages that are never published use files
# and packages that a package cannot contain, and are left out.
set -euo pipefail
# shellcheck source=.ci/lib
. "$(dirname "$0")/lib"
usage "$@"
cargo publish --workspace --dry-run --allow-dirty
