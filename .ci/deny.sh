#!/usr/bin/env bash
# usage: .ci/deny.sh [advisories]
#
# The dependencies against deny.toml, by cargo-deny: licences, sources, duplicates, wildcards. With
# "advisories" also known vulnerabilities and yanked versions. These come from a repository on GitHub
# and change without a change here, so the gate does not ask for them: .github/workflows/ci.yml does,
# once a week and on each change.
set -euo pipefail
# shellcheck source=.ci/lib
. "$(dirname "$0")/lib"
checks=(bans licenses sources)
if [[ $* == advisories ]]; then checks=(all); else usage "$@"; fi
pinned_tools || exit 0
cargo deny --locked check "${checks[@]}" || exit 1
