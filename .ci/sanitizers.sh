#!/usr/bin/env bash
# usage: .ci/sanitizers.sh
#
# psx under AddressSanitizer, ThreadSanitizer and valgrind. docs/testing.md says what each of them
# can see here, and explains what is left out.
set -euo pipefail
# shellcheck source=.ci/lib
. "$(dirname "$0")/lib"
usage "$@"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# built CARGO-OPTIONS...: builds tests, and prints the paths of their programs.
built() {
    cargo "$@" --no-run --message-format=json | grep -o '"executable":"[^"]*"' | cut -d'"' -f4
}

# sanitized KIND FLAGS COMMAND...: the cargo command on nightly, with the prebuilt std.
sanitized() {
    local kind=$1 flags=$2
    shift 2
    RUSTFLAGS="-Zsanitizer=$kind $flags" CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/$kind \
        CARGO_BUILD_TARGET=$host RUSTUP_TOOLCHAIN=nightly "$@"
}

# Under both sanitizers a thread's alternate signal stack is the sanitizer's, not std's.
without_std_stack=(--skip main_stack::)

address() {
    sanitized address '' tested cargo test -p psx-core --lib -- "${without_std_stack[@]}"
    local programs
    mapfile -t programs < <(sanitized address '' built test -p psx-spawn --test runtime --test faults)
    for program in "${programs[@]}"; do
        case ${program##*/} in
        # The cases left out need more thread starts during 500 rounds than a slow program makes.
        runtime-*) tested "$program" churn:: --skip last_destructors ;;
        faults-*) tested "$program" --subject psx raw-exit ;;
        esac
    done
}

# Fails on a report whose two accesses are both in psx-core. In the others one access is in std or a
# test, after a synchronisation in std, which is not instrumented.
thread() {
    TSAN_OPTIONS="exitcode=0 log_path=$scratch/report" RUST_TEST_THREADS=1 \
        sanitized thread -Cunsafe-allow-abi-mismatch=sanitizer \
        tested cargo test -p psx-core --lib -- "${without_std_stack[@]}"
    cat "$scratch"/report* 2>/dev/null | awk '
        /^WARNING/ { report = ""; ours = 0; reports++ }
        /^  (Read|Write|Atomic|Previous)/ { unseen = 1 }
        /^  (Location|Mutex|Thread|As if)/ { unseen = 0 }
        unseen && /psx-core\/src\// && !/::tests::/ { ours++; unseen = 0 }
        { report = report $0 "\n" }
        /^SUMMARY/ && ours == 2 { print report; found++ }
        END {
            printf "%d reports, %d of them about psx-core\n", reports, found
            exit found > 0
        }'
}

# memcheck COMMAND...: the command under valgrind.
memcheck() {
    # std's threads disable their signal stacks before they end, which valgrind does not track. std
    # sets none up where both signals are ignored. valgrind has no openat2, and says so at each of
    # hundreds of thousands of calls: psx then uses openat.
    env --ignore-signal=SEGV,BUS valgrind -q --log-fd=9 --vgdb=no --fair-sched=yes --error-exitcode=9 \
        --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite "$@" \
        9> >(grep -vE '^--[0-9]+-- (WARNING: unhandled .* syscall: 437|You may be |Read the file |Nevertheless |it at )' >&2)
}

# answered COMMAND...: the command, with a socket as its standard input on which each line that it
# writes is answered.
answered() {
    # shellcheck disable=SC2016  # perl's variables
    perl -MSocket -e '
        socketpair(my $ours, my $theirs, AF_UNIX, SOCK_STREAM, 0) or die $!;
        my $child = fork() // die $!;
        if (!$child) { close $ours; open STDIN, "<&", $theirs; exec @ARGV or die $! }
        close $theirs;
        while (<$ours>) { print; syswrite $ours, "go\n" }
        waitpid $child, 0;
        exit($? >> 8 || $? & 127);' "$@"
}

memory() {
    local programs
    mapfile -t programs < <(built test -p psx-spawn --test runtime --test faults)
    export -f memcheck
    for program in "${programs[@]}"; do
        case ${program##*/} in
        runtime-*)
            for case in keepcaps_toggles new_threads_that_adopt last_destructors_are_registered; do
                echo "valgrind: churn::$case"
                memcheck "$program" --child "churn::$case" </dev/null
            done
            ;;
        faults-*)
            echo 'valgrind: raw-exit'
            answered bash -c 'memcheck "$@"' memcheck "$program" --child raw-exit
            ;;
        esac
    done
}

if nightly; then
    host=$(rustc -vV | sed -n 's/^host: //p')
    address
    thread
fi
if need valgrind valgrind; then
    memory
fi
