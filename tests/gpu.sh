#!/usr/bin/env bash
# The checks that need a GPU, in under 8 minutes. Needs a driver and carried/ of tests/carry.sh, but no compiler and no network.
#
#   tests/gpu.sh [carried]
#
# Copy carried/ and the tree (calib, engines, kernels, tests) to the machine with the GPU. Every step has its own time limit
# and verdict, and a failure does not keep later steps from running; the most useful come first. The table of verdicts ends
# the output, and the script fails if a step did.
set -uo pipefail
cd "$(dirname "$0")/.."
built="$(realpath "${1:-carried}")"
for program in it gpu cp-infer cp-bench; do
    if [ ! -x "$built/$program" ]; then
        echo "no $built/$program: tests/carry.sh makes it"
        exit 2
    fi
done
export CENTERPOINT_TEST_DEVICE=cuda
out="$(mktemp -d)"
trap 'rm -rf "$out"' EXIT

# The tests' files lie where the build was.
root="$(cat "$built/root")"
if [ ! -e "$root" ]; then
    mkdir -p "$(dirname "$root")"
    ln -s "$PWD" "$root"
fi

total=480
verdicts=()
failed=0
# step NAME LIMIT COMMAND…: runs a command for at most LIMIT seconds, and at most as long as the whole may take.
step() {
    local name="$1" limit="$2" left=$((total - SECONDS)) start=$SECONDS code=0
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

# The boxes of the 16 demo frames on the GPU and on the CPU, which must be the same bytes.
same_boxes() {
    local device
    for device in cpu cuda; do
        "$built/cp-infer" --engine "engines/demo/$1.plan" --pcd calib/demo/frames --device "$device" --format json \
            >"$out/$device.json" || return
    done
    cmp "$out/cpu.json" "$out/cuda.json"
}
export -f same_boxes
export built out

step "the GPU" 10 nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,power.limit --format=csv
step "cp-infer, INT8" 60 bash -c 'same_boxes int8'
step "cp-infer, FP32" 60 bash -c 'same_boxes fp32'
step "cp-bench, INT8" 30 "$built/cp-bench" --engine engines/demo/int8.plan --pcd calib/demo/frames --device cuda --duration 5
step "stage times" 90 "$built/gpu"
step "1000 equal frames" 60 "$built/gpu" --identical 1000
# All tests share a device and a stream, so one at a time. Skipped are the tests of the emulation and of the stand-in.
step "comparisons" 150 "$built/it" --test-threads 1 --skip cuda::harness --skip cuda::plants --skip cuda::driver cuda::
if [ -d ../shared ]; then
    step "comparisons on real frames" 60 "$built/it" --test-threads 1 --ignored shared::cuda::
fi
sanitizer="$(command -v compute-sanitizer || true)"
for tool in memcheck racecheck; do
    if [ -n "$sanitizer" ]; then
        step "$tool" 90 "$sanitizer" --tool "$tool" --error-exitcode 1 "$built/gpu" --identical 4
    else
        verdicts+=("not run   $tool: compute-sanitizer is not installed")
    fi
done

printf '\n'
printf '%s\n' "${verdicts[@]}"
exit "$failed"
