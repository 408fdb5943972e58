#!/usr/bin/env bash
# Times the voxelisation, scatter, decode and NMS kernels of peers on the frame and grids of
# `cargo bench --bench gpu`. It has never run on a GPU, only been compiled and linked by nvcc 13.0.
#
#   benches/gpu/peers/peers.sh GPU_BENCH|FILE
#
# GPU_BENCH is the built bench `gpu` (see tests/gpu.sh), which writes the frame; alternatively FILE contains it: rows
# of little-endian f32, x y z intensity t. The peers' sources are your own clones: the script downloads nothing and
# skips a peer whose variable is unset. The harnesses were written for these commits:
#
#   AUTOWARE          github.com/autowarefoundation/autoware.universe   b8ce82e3759e50f780a0941ca8698ff52aa57b97
#   CUDA_POINTPILLARS github.com/NVIDIA-AI-IOT/CUDA-PointPillars        ce7e2bd694c90207435c8751d61cdb38d48a9f4c
#   LIDAR_AI_SOLUTION github.com/NVIDIA-AI-IOT/Lidar_AI_Solution        787ad9549d2573a1a543fd1c03fb5835e580aafb
#
# Other variables: NVCC, the compiler (nvcc); NVCC_FLAGS, extra options, such as -L for PyPI's libraries; ARCH, the
# target (native). Needs Thrust, which is part of CUDA, and up to 3 GB of device memory.
#
# Each peer prints a table: medians of 200 runs after 20 warm-up runs, in µs, between CUDA events. Lines in brackets
# are parts or variants, which the sum in the last line excludes. The head of each harness names what it does not
# cover and how its frame differs from ours: read it before you compare sums. A peer's PFN is part of its TensorRT
# engine and not in its sum; ours is, in `features`.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
frame="${1:?names neither the built bench gpu nor a file of points}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

if [ -x "$frame" ]; then
    "$(realpath "$frame")" --dump "$work/frame.bin"
    frame="$work/frame.bin"
fi
if [ ! -s "$frame" ]; then
    echo "$frame contains no points"
    exit 2
fi

failed=0
# peer HARNESS CLONE INCLUDE SOURCE…: builds a harness with sources of a clone, and runs it on both grids.
peer() {
    local harness="$1" clone="$2" include="$3" sources=() source
    shift 3
    if [ -z "$clone" ]; then
        echo "skipped $harness: its variable is unset"
        return
    fi
    for source in "$@"; do sources+=("$clone/$source"); done
    echo "$harness: commit $(git -C "$clone" rev-parse HEAD 2>/dev/null || echo unknown)"
    # -w: any warnings would come from the peer's sources. The flags are split into words on purpose.
    # shellcheck disable=SC2086
    if ! "${NVCC:-nvcc}" -std=c++17 -O3 -w -arch="${ARCH:-native}" ${NVCC_FLAGS:-} -I"$here" -I"$clone/$include" \
        -o "$work/$harness" "$here/$harness.cu" "${sources[@]}"; then
        echo "$harness does not compile: check out the commit that the head of this file names"
        failed=1
        return
    fi
    # The grids of benches/gpu/main.rs: cells of a side, metres of a cell.
    "$work/$harness" "$frame" 480 0.32 || failed=1
    "$work/$harness" "$frame" 1020 0.24 || failed=1
}

centerpoint=perception/autoware_lidar_centerpoint
peer autoware "${AUTOWARE:-}" "$centerpoint/include" \
    "$centerpoint/lib/preprocess/preprocess_kernel.cu" "$centerpoint/lib/network/scatter_kernel.cu" \
    "$centerpoint/lib/postprocess/postprocess_kernel.cu" "$centerpoint/lib/postprocess/circle_nms_kernel.cu" \
    "$centerpoint/lib/utils.cpp"
peer pointpillars "${CUDA_POINTPILLARS:-}" src \
    src/pointpillar/lidar-voxelization.cu src/pointpillar/lidar-postprocess.cu src/pointpillar/pillarscatter-kernel.cu
peer centerpoint "${LIDAR_AI_SOLUTION:-}" CUDA-CenterPoint/include \
    CUDA-CenterPoint/src/preprocess_kernels.cu CUDA-CenterPoint/src/postprocess_kernels.cu
exit "$failed"
