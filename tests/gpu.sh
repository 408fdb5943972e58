#!/usr/bin/env bash
# The checks that need a GPU. Needs a driver and a build that was copied here, but no compiler and no network.
#
# On the machine that builds, in the root of the repository, with nvcc (see build.rs; without it the machine with the GPU
# needs NVRTC):
#   cargo test --release --no-run --test it
#   cargo bench --no-run --bench gpu
#   mkdir -p carried && cp "$(ls -t target/release/deps/it-* | grep -v '\.' | head -1)" carried/it
#   cp "$(ls -t target/release/deps/gpu-* | grep -v '\.' | head -1)" carried/gpu
# Copy `carried/` and the tree (calib, engines, kernels, tests) to the same path, since tests find their files by the path
# of the build. Then, on the machine with the GPU:
#   tests/gpu.sh [carried]
#
# compute-sanitizer, where it is installed, runs the benchmark's frames.
set -euo pipefail
cd "$(dirname "$0")/.."
built="$(realpath "${1:-carried}")"
for program in it gpu; do
    if [ ! -x "$built/$program" ]; then
        echo "no $built/$program: the head of this file says how to build it"
        exit 2
    fi
done
export CENTERPOINT_TEST_DEVICE=cuda

step() {
    printf '\n== %s\n' "$*"
    "$@"
}

nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,power.limit --format=csv ||
    echo "nvidia-smi failed"

# All tests share a device and a stream, so one at a time. Skipped are the tests of the emulation itself.
step "$built/it" --test-threads 1 --skip cuda::harness --skip cuda::plants cuda::
if [ -d ../shared ]; then step "$built/it" --test-threads 1 --ignored shared::cuda::; fi

if sanitizer="$(command -v compute-sanitizer)"; then
    for tool in memcheck racecheck; do
        step "$sanitizer" --tool "$tool" --error-exitcode 1 "$built/gpu" --identical 4
    done
else
    echo "compute-sanitizer is not installed: memcheck and racecheck were not run"
fi

step "$built/gpu" --identical 10000
step "$built/gpu"

# Kernels of other projects on the same frame. Needs nvcc and clones of their sources; skips those that are not named.
step benches/gpu/peers/peers.sh "$built/gpu"
