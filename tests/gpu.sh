#!/usr/bin/env bash
# The checks that need a GPU, in under 8 minutes. Needs a driver and carried.tar.gz of tests/carry.sh, but no compiler and no
# network.
#
#   tests/gpu.sh [carried.tar.gz]
#
# Copy carried.tar.gz and, of the tree, calib/demo, engines/demo and tests to the machine with the GPU. Every step has its own time
# limit and verdict, and a failure does not keep later steps from running; the most useful come first. The table of verdicts
# ends the output, and the script fails if a step did. A missing tool of NVIDIA's is no failure.
#
# For what is slower than a GPU, such as the stand-in (LD_LIBRARY_PATH="$(tests/standin.sh)", which needs a compiler):
#
#   CENTERPOINT_GPU_FRAMES   frames of each time and of the comparison of equal frames; default 1000. Of the 16 demo frames at
#                            most so many are compared
#   CENTERPOINT_GPU_SKIP     comparisons to leave out, names of tests; default none
#   CENTERPOINT_GPU_NETWORKS networks to time by layer; default demo and base
#   CENTERPOINT_GPU_ONLY     kernels that do something while networks are timed, on the stand-in; default all
#   CENTERPOINT_GPU_SLOWER   factor for all time limits; default 1
set -uo pipefail
cd "$(dirname "$0")/.."
out="$(mktemp -d)"
trap 'rm -rf "$out"' EXIT
built="$out/carried"
mkdir "$built"
if ! tar -C "$built" -xzf "${1:-carried.tar.gz}"; then
    echo "cannot unpack ${1:-carried.tar.gz}: tests/carry.sh makes it"
    exit 2
fi
export CENTERPOINT_TEST_DEVICE=cuda

# The tests' files lie where the build was. A link may be an earlier copy's.
root="$(cat "$built/root")"
if [ ! -e "$root" ] || [ -L "$root" ]; then
    mkdir -p "$(dirname "$root")"
    ln -sfn "$PWD" "$root"
fi

frames="${CENTERPOINT_GPU_FRAMES:-1000}"
slower="${CENTERPOINT_GPU_SLOWER:-1}"
total=$((480 * slower))
verdicts=()
failed=0
# step NAME LIMIT COMMAND…: runs a command for at most LIMIT seconds, and at most as long as the whole may take.
step() {
    local name="$1" limit=$(($2 * slower)) left=$((total - SECONDS)) start=$SECONDS code=0
    shift 2
    if [ "$left" -le 5 ]; then
        verdicts+=("not run   $name: no time left")
        failed=1
        return
    fi
    printf '\n== %s: %s\n' "$name" "$*"
    timeout --kill-after 5 "$((limit < left ? limit : left))" "$@" || code=$?
    case "$code" in
        0) verdicts+=("ok        $name, $((SECONDS - start)) s") ;;
        124 | 137) verdicts+=("too slow  $name, $((SECONDS - start)) s") && failed=1 ;;
        *) verdicts+=("FAILED    $name, exit code $code, $((SECONDS - start)) s") && failed=1 ;;
    esac
}

# not_installed NAME TOOL: the verdict of a step whose tool this machine lacks.
not_installed() {
    verdicts+=("not run   $1: $2 is not installed")
}

# The boxes of the demo frames on the GPU and on the CPU, which must be the same bytes.
same_boxes() {
    local device compared
    mapfile -t compared < <(printf '%s\n' calib/demo/frames/*.bin | head -n "$frames")
    for device in cpu cuda; do
        "$built/cp-infer" --engine "engines/demo/$1.plan" --pcd "${compared[@]}" --device "$device" --format json \
            >"$out/$device.json" || return
    done
    cmp "$out/cpu.json" "$out/cuda.json"
}
export -f same_boxes
export built out frames

if command -v nvidia-smi >/dev/null; then
    step "the GPU" 10 nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,power.limit --format=csv
else
    not_installed "the GPU" nvidia-smi
fi
step "cp-infer, INT8" 60 bash -c 'same_boxes int8'
step "cp-infer, FP32" 60 bash -c 'same_boxes fp32'
step "cp-bench, INT8" 30 "$built/cp-bench" --engine engines/demo/int8.plan --pcd calib/demo/frames --device cuda --duration 5
step "stage times" 60 "$built/gpu" --frames "$frames"
export CENTERPOINT_STANDIN_ONLY="${CENTERPOINT_GPU_ONLY:-}"
for network in ${CENTERPOINT_GPU_NETWORKS:-demo base}; do
    step "engine, $network" 60 "$built/gpu" --engine "$network" --frames "$((frames / 10 + 1))"
done
unset CENTERPOINT_STANDIN_ONLY
step "$frames equal frames" 30 "$built/gpu" --identical "$frames"
same=$((frames < 1000 ? frames : 10 * frames))
step "$same frames as on the CPU" 60 "$built/gpu" --same "$same"
# All tests share a device and a stream, so one at a time. Skipped are the tests of the emulation, which need a compiler, and
# those of the stand-in.
emulation=(--skip cuda::harness --skip cuda::engine::planted --skip cuda::plants --skip cuda::elementary --skip points_are_read --skip every_half_has)
standin=(--skip cuda::driver --skip cuda::refused --skip cuda::uncaptured)
skipped=()
for name in ${CENTERPOINT_GPU_SKIP:-}; do skipped+=(--skip "$name"); done
step "comparisons" 150 "$built/it" --test-threads 1 "${emulation[@]}" "${standin[@]}" "${skipped[@]}" cuda::
if [ -d ../shared ]; then
    step "comparisons on real frames" 60 "$built/it" --test-threads 1 --ignored shared::cuda::
fi
sanitizer="$(command -v compute-sanitizer || true)"
for tool in memcheck racecheck; do
    if [ -n "$sanitizer" ]; then
        step "$tool" 90 "$sanitizer" --tool "$tool" --error-exitcode 1 "$built/gpu" --identical 4
    else
        not_installed "$tool" compute-sanitizer
    fi
done

printf '\n'
printf '%s\n' "${verdicts[@]}"
exit "$failed"
