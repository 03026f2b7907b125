#!/usr/bin/env bash
# usage: .ci/texts.sh
#
# The scripts by shellcheck; the links and anchors of every Markdown file by lychee, without fetching
# what is outside the repository; the paths that texts and comments name; the spelling by typos, whose
# exceptions are in typos.toml.
set -euo pipefail
# shellcheck source=.ci/lib
. "$(dirname "$0")/lib"
usage "$@"

# sources PATTERN...: the repository's files with these names, each followed by a NUL.
sources() {
    local names=()
    for pattern; do names+=(-o -name "$pattern"); done
    find . \( -name target -o -name .git \) -prune -o -type f \( "${names[@]:1}" \) -print0
}

# paths: fails if a text or comment names a file or folder that does not exist.
paths() {
    local file line path status=0
    while IFS=: read -r file line path; do
        path=${path#[!.a-z]} path=${path%/}
        compgen -G "$path" >/dev/null && continue
        printf '%s:%s: no %s\n' "$file" "$line" "$path" >&2
        status=1
    done < <(sources '*.md' '*.rs' '*.toml' '*.yml' '*.sh' lib run | xargs -0 grep -HnoE \
        '(^|[^A-Za-z0-9_./-])(docs|\.ci|\.github|examples|psx-[a-z]+(-tests)?)/([A-Za-z0-9_.*-]+/)*([A-Za-z0-9_.*-]+\.(md|rs|sh|c|toml|yml|svg)\b)?')
    ((status == 0))
}

# check COMMAND...: one check; the others go on if it fails.
check() {
    printf -- '-- %s\n' "$1"
    "$@" || status=1
}

status=0
if need shellcheck shellcheck; then
    check shellcheck --external-sources .ci/lib .ci/run .ci/*.sh
fi
if pinned_tools; then
    mapfile -d '' texts < <(sources '*.md')
    check lychee --offline --include-fragments --no-progress "${texts[@]}"
    check typos
fi
echo '-- paths'
paths || status=1
exit $status
