#!/usr/bin/env bash
# What only a GPU can show. Needs a driver and a build that was carried here: no compiler, no network.
#
# On the machine that builds, in the repository's root, with nvcc at hand (see build.rs; without it the
# machine with the GPU needs NVRTC):
#   cargo test --release --no-run --test it
#   cargo bench --no-run --bench gpu
#   mkdir -p carried && cp "$(ls -t target/release/deps/it-* | grep -v '\.' | head -1)" carried/it
#   cp "$(ls -t target/release/deps/gpu-* | grep -v '\.' | head -1)" carried/gpu
# Carry `carried/` with the tree (calib, engines, kernels, tests) to the same path: the tests look for their
# files where they were built. Then, there:
#   tests/gpu.sh [carried]
#
# compute-sanitizer runs where it is installed, on the tests that are cheap enough for it.
set -euo pipefail
cd "$(dirname "$0")/.."
built="$(realpath "${1:-carried}")"
for program in it gpu; do
    if [ ! -x "$built/$program" ]; then
        echo "there is no $built/$program; the head of this file says how to build it"
        exit 2
    fi
done
export CENTERPOINT_TEST_DEVICE=cuda

step() {
    printf '\n== %s\n' "$*"
    "$@"
}

nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,power.limit --format=csv ||
    echo "nvidia-smi tells nothing"

# One stream, one device for all tests: in turn. Left out are the tests of the emulation itself.
step "$built/it" --test-threads 1 --skip cuda::harness --skip cuda::plants cuda::

if sanitizer="$(command -v compute-sanitizer)"; then
    for tool in memcheck racecheck; do
        step "$sanitizer" --tool "$tool" --error-exitcode 1 "$built/gpu" --identical 4
    done
else
    echo "compute-sanitizer is not installed: memcheck and racecheck were not run"
fi

step "$built/gpu" --identical 10000
step "$built/gpu"

# Others' kernels on the same frame: needs nvcc and clones of their sources, each skipped where it is not named.
step benches/gpu/peers/peers.sh "$built/gpu"
