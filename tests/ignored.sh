#!/usr/bin/env bash
# Runs the ignored tests whose needs are met on this machine. Counts those whose needs are not.
#
#   tests/ignored.sh [--nightly] [CARGO TEST OPTIONS]
#
# A test names its needs in `#[ignore = "needs A, B"]`; the head of tests/it/main.rs explains them. `--nightly` includes
# the tests that are ignored because they are slow, `#[ignore = "nightly: …"]`.
set -euo pipefail
cd "$(dirname "$0")/.."

nightly=
if [ "${1:-}" = --nightly ]; then
    nightly=1
    shift
fi

# Whether a need is met.
met() {
    case "$1" in
        nightly) [ -n "$nightly" ] ;;
        */*) [ -e "$1" ] ;;
        [A-Z]*) [ -n "${!1:-}" ] ;;
        lib*) [[ "$("${CXX:-c++}" -print-file-name="$1.so" 2>/dev/null)" == /* ]] ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

# Prints the needs and the name of each ignored test, as `A, B:name`.
ignored() {
    find src tests ros2 -name '*.rs' -exec awk '
        /^ *#\[ignore = "needs / { split($0, part, "\""); needs = substr(part[2], 7) }
        /^ *#\[ignore = "nightly:/ { needs = "nightly" }
        needs != "" && match($0, /fn [a-z0-9_]+/) { print needs ":" substr($0, RSTART + 3, RLENGTH - 3); needs = "" }
    ' {} + 2>/dev/null || true
}

names=()
declare -A unmet
while IFS=: read -r needs name; do
    ready=1
    for need in ${needs//,/}; do
        if ! met "$need"; then
            ready=
            unmet[$need]=$((${unmet[$need]:-0} + 1))
        fi
    done
    if [ -n "$ready" ]; then names+=("$name"); fi
done < <(ignored)
for need in "${!unmet[@]}"; do
    echo "still ignored without $need: ${unmet[$need]} tests"
done
# Without names cargo would run all ignored tests.
if [ ${#names[@]} = 0 ]; then
    echo "no ignored test has what it needs"
    exit
fi
exec cargo test --tests "$@" -- --ignored "${names[@]}"
