#!/usr/bin/env bash
# Builds the library and cp-infer for aarch64 Linux, the platform of a Jetson, and runs them under qemu: the unit tests,
# and the demo frame, whose output must equal this machine's byte for byte.
#
#   tests/aarch64.sh
#
# Needs a cross compiler (Debian: gcc-aarch64-linux-gnu or gcc-12-aarch64-linux-gnu, and libc6-dev-arm64-cross), qemu
# (qemu-user-static or qemu-user) and Rust's target (rustup target add aarch64-unknown-linux-gnu). Exits with 2, and names
# what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
target=aarch64-unknown-linux-gnu

# Prints the first of the programs that exists.
first() {
    local program
    for program in "$@"; do
        if command -v "$program"; then return; fi
    done
    echo "aarch64: found none of $*" >&2
    return 1
}

compiler="$(first aarch64-linux-gnu-gcc aarch64-linux-gnu-gcc-{14,13,12})" || exit 2
qemu="$(first qemu-aarch64-static qemu-aarch64)" || exit 2
if ! [ -d "$(rustc --print target-libdir --target "$target")" ]; then
    echo "aarch64: Rust's standard library is missing: rustup target add $target" >&2
    exit 2
fi

# These name programs and libraries of this machine's architecture.
unset CENTERPOINT_PYTHON CENTERPOINT_NVRTC CENTERPOINT_NVCC TENSORRT_INCLUDE_DIR

# criterion, which the benches use, compiles a C file.
export CC_aarch64_unknown_linux_gnu="$compiler"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER="$compiler"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$qemu -L /usr/aarch64-linux-gnu"

# The six tests of build::recipe run whole networks many times: minutes under emulation. The emulated machine is not the one
# that this machine's programs describe.
cargo test --locked --target "$target" --lib -- --skip build::recipe:: --skip this_machine_matches_other_programs
cargo build --locked --target "$target" --bin cp-infer
cargo build --locked --bin cp-infer

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
detect() {
    local plan="$1" out="$2"
    shift 2
    "$@" --engine "engines/demo/$plan.plan" --pcd calib/demo/frames/000003.bin --format json --out "$out"
}
for plan in int8 fp32; do
    detect "$plan" "$work/here.json" target/debug/cp-infer
    detect "$plan" "$work/there.json" "$qemu" -L /usr/aarch64-linux-gnu "target/$target/debug/cp-infer"
    cmp "$work/here.json" "$work/there.json"
    echo "aarch64: $plan.plan prints the same bytes as on this machine"
done
