#!/usr/bin/env bash
# Compiles every kernel with nvcc for every target, like build.rs, and prints its registers, shared memory and spills.
# Fails if a kernel does not compile, spills registers or uses local memory.
#
#   CENTERPOINT_NVCC=… tests/kernels.sh [LAUNCHES]
#   CENTERPOINT_PTXAS_LOGS=DIR tests/kernels.sh [LAUNCHES]
#
# CENTERPOINT_PTXAS_LOGS is a folder with what `-Xptxas -v` printed for each file, <stage>.log; then nothing is compiled.
# CENTERPOINT_NVCC has the meaning of build.rs: nvcc, or a Python `site-packages` that holds PyPI's nvcc. LAUNCHES is the
# output of `cargo bench --bench gpu -- --launches`, lines of `kernel threads dynamic-shared-bytes`. It adds the
# theoretical occupancy to the table, the share of an SM's warps that can be resident at once.
set -euo pipefail
cd "$(dirname "$0")/.."

targets="75 80 86 87 89 90 100 110 120"

launches="${1:-/dev/null}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

compile() {
    local nvcc="$1" stage="$2" target options=()
    for target in $targets; do
        options+=("-gencode=arch=compute_$target,code=sm_$target")
    done
    "$nvcc" -std=c++17 -O3 -fmad=false -fatbin -Xptxas -v "${options[@]}" \
        -o "$work/$stage.fatbin" "kernels/$stage.cu" >"$work/$stage.log" 2>&1
}

# Compiles all kernels, which leaves a log for each.
compile_all() {
    local nvcc="${CENTERPOINT_NVCC:?is not set}" running=() failed=0 kernel one
    if [ -d "$nvcc" ]; then nvcc="$nvcc/nvidia/cu13/bin/nvcc"; fi
    for kernel in kernels/*.cu; do
        compile "$nvcc" "$(basename "$kernel" .cu)" &
        running+=("$!:$kernel")
    done
    for one in "${running[@]}"; do
        if ! wait "${one%%:*}"; then
            failed=1
            echo "${one#*:} does not compile:"
            grep -v '^ptxas info' "$work/$(basename "${one#*:}" .cu).log" | head -20
        fi
    done
    return "$failed"
}

if [ -n "${CENTERPOINT_PTXAS_LOGS:-}" ]; then
    for kernel in kernels/*.cu; do
        cp "$CENTERPOINT_PTXAS_LOGS/$(basename "$kernel" .cu).log" "$work"
    done
else
    compile_all || exit 1
fi

# For each kernel and target ptxas prints the name, then stack frame and spills, then registers and memory.
awk -v launches="$launches" '
    BEGIN {
        # For each target the warps, blocks and KiB of shared memory of an SM (CUDA C++ Programming Guide, compute
        # capabilities).
        split("75:32:16:64 80:64:32:164 86:48:16:100 87:48:16:164 89:48:24:100 90:64:32:228 " \
              "100:64:32:228 110:48:24:228 120:48:24:100", sms, " ")
        for (i in sms) {
            split(sms[i], of, ":")
            warps[of[1]] = of[2]; blocks[of[1]] = of[3]; kib[of[1]] = of[4]
        }
        while ((getline line < launches) > 0) {
            split(line, launch, " ")
            threads[launch[1]] = launch[2]; dynamic[launch[1]] = launch[3]
        }
        row = "%-22s %4s %5s %7s %6s %6s %9s\n"
        printf row, "kernel", "sm", "regs", "shared", "spills", "stack", "occupancy"
    }
    function least(a, b) { return a < b ? a : b }
    # Registers are allocated to warps in units of 256. From sm_80 on, the system reserves 1 KiB of shared memory a block.
    function occupancy(kernel, sm, regs, shared,    block, resident, per_block) {
        if (!(kernel in threads)) return "-"
        block = int((threads[kernel] + 31) / 32)
        resident = int(int(65536 / (int((regs * 32 + 255) / 256) * 256)) / 4) * 4
        resident = least(blocks[sm], int(least(warps[sm], resident) / block))
        per_block = shared + dynamic[kernel] + (sm >= 80 ? 1024 : 0)
        if (per_block > 0) resident = least(resident, int(kib[sm] * 1024 / per_block))
        return int(100 * resident * block / warps[sm] + 0.5) "%"
    }
    /Compiling entry function/ { split($0, part, "\047"); kernel = part[2]; sm = substr(part[4], 4) }
    /bytes stack frame/ { stack = $1; spills = $5 + $9 }
    /Used [0-9]+ registers/ {
        regs = shared = 0
        for (i = 2; i <= NF; ++i) {
            if ($i ~ /^registers/) regs = $(i - 1)
            if ($i ~ /^smem/) shared = $(i - 2)
        }
        printf row, kernel, sm, regs, shared, spills, stack, occupancy(kernel, sm, regs, shared) | "sort -k1,1 -k2,2n"
        ++found
        if (stack + spills > 0) bad[++count] = kernel " on sm_" sm
    }
    END {
        close("sort -k1,1 -k2,2n")
        if (found == 0) { print "nvcc reported no kernel"; exit 1 }
        for (i = 1; i <= count; ++i) print "spills registers or uses local memory: " bad[i]
        exit count > 0
    }
' "$work"/*.log
