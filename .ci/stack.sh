#!/usr/bin/env bash
# usage: .ci/stack.sh
#
# The stack that the handler needs with optimisation: what docs/signal-safety.md promises.
set -euo pipefail
# shellcheck source=.ci/lib
. "$(dirname "$0")/lib"
usage "$@"
tested cargo test --release -p psx-spawn --test runtime -- stack::
