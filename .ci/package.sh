#!/usr/bin/env bash
# usage: .ci/package.sh
#
# Builds each published package from its own files alone. Packages that are never published use files
# and packages that a package cannot contain, and are left out.
set -euo pipefail
# shellcheck source=.ci/lib
. "$(dirname "$0")/lib"
usage "$@"
# Cargo keeps the sources of the packages that it verifies by the checkout's path and the version alone: an
# earlier run of the same version would be verified instead.
rm -rf "${CARGO_HOME:-$HOME/.cargo}"/registry/{cache,src}/-*/psx-*
cargo publish --workspace --dry-run --allow-dirty
