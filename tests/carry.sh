#!/usr/bin/env bash
# Builds what tests/gpu.sh runs, the integration tests, the benchmark and the programs, and packs it, stripped, into
# carried.tar.gz.
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

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cargo build --quiet --locked --message-format json "$@" --test it --bench gpu --bins >"$work/messages"
mkdir "$work/carried"
for name in it gpu cp-infer cp-bench; do
    strip -o "$work/carried/$name" "$(program "$name" <"$work/messages")"
done
# Tests find their files by the path of the build.
pwd >"$work/carried/root"
tar -C "$work/carried" -czf carried.tar.gz .
du -h carried.tar.gz
