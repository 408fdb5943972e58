#!/usr/bin/env bash
# Builds what tests/gpu.sh runs and puts it into carried/, stripped: the integration tests, the benchmark and the programs.
#
#   tests/carry.sh [--release] [CARGO OPTIONS]
#
# With nvcc (see build.rs) the programs contain the kernels' code; without it the machine with the GPU needs NVRTC.
set -euo pipefail
cd "$(dirname "$0")/.."

# The program of a target, from cargo's messages.
program() {
    grep '"executable":"' | grep "\"name\":\"$1\"" | grep -o '"executable":"[^"]*"' | cut -d'"' -f4 | tail -1
}

messages="$(mktemp)"
trap 'rm -f "$messages"' EXIT
cargo build --quiet --locked --message-format json "$@" --test it --bench gpu --bins >"$messages"
mkdir -p carried
for name in it gpu cp-infer cp-bench; do
    strip -o "carried/$name" "$(program "$name" <"$messages")"
done
# Tests find their files by the path of the build.
pwd >carried/root
du -sh carried
