#!/usr/bin/env bash
# usage: .ci/soak.sh
#
# A minute of everything at once.
set -euo pipefail
# shellcheck source=.ci/lib
. "$(dirname "$0")/lib"
usage "$@"
cargo run --release --example soak -- --minutes 1
