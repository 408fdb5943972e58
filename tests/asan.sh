#!/usr/bin/env bash
# Builds the C library with AddressSanitizer in target/asan, which takes minutes, and runs tests/capi/hammer.cpp with it.
# The test suite runs that program with the sanitizer in the caller only.
set -euo pipefail
cd "$(dirname "$0")/.."

target="$(rustc -vV | sed -n 's/^host: //p')"
# The option is unstable; RUSTC_BOOTSTRAP makes a stable toolchain accept it.
RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address CARGO_TARGET_DIR=target/asan \
    cargo build --locked --lib --target "$target"
lib="$PWD/target/asan/$target/debug"
ln -sf libcenterpoint.so "$lib/libcenterpoint.so.0"

"${CXX:-c++}" -std=c++17 -O1 -g -fsanitize=address -Isrc/capi/include tests/capi/hammer.cpp \
    -o target/asan/hammer -L"$lib" -lcenterpoint -pthread -Wl,-rpath,"$lib"
other="$(printf 'target/asan/plan \377.plan')"
cp engines/demo/int8.plan "$other"
target/asan/hammer engines/demo/int8.plan calib/demo/frames/000003.bin "$other"
