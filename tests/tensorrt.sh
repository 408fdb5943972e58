#!/usr/bin/env bash
# Fetches what the tests of TensorRT need: headers from the sources of the crate trtx-sys (Apache-2.0), and NVIDIA's
# libraries from PyPI. Files from an earlier run are kept.
#
#   eval "$(tests/tensorrt.sh PYTHON)"
#
# PYTHON is an interpreter with pip. Prints assignments; fails if a download fails.
#   TENSORRT_INCLUDE_DIR              headers for compiling the shims
#   CENTERPOINT_TEST_TENSORRT_HEADERS the same folder, which has a folder for each set of headers
#   CENTERPOINT_TEST_TENSORRT         folders rtx (TensorRT-RTX with its parser), lean10 and lean11 (lean runtimes)
set -euo pipefail
cd "$(dirname "$0")/.."

python="${1:?which Python?}"
headers="$PWD/target/tensorrt/headers"
libraries="$PWD/.venv/tensorrt"
# Pinned, since tests check these versions.
crate="=0.9.1"
packages="rtx:tensorrt-rtx-cu13-libs==1.7.1.116
lean10:tensorrt-lean-cu12-libs==10.16.1.11
lean11:tensorrt-lean-cu12-libs==11.4.0.106"

# Copies the crate's headers from where cargo unpacked its sources.
fetch_headers() {
    local work="$PWD/target/tensorrt/fetch" manifest
    mkdir -p "$work/src"
    : >"$work/src/lib.rs"
    # `[workspace]` keeps this package out of ours.
    printf '[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2024"\n[workspace]\n[dependencies]\ntrtx-sys = "%s"\n' \
        "$crate" >"$work/Cargo.toml"
    manifest="$(cargo metadata --quiet --format-version 1 --manifest-path "$work/Cargo.toml" |
        "$python" -c '
import json, sys
packages = json.load(sys.stdin)["packages"]
print(next(p["manifest_path"] for p in packages if p["name"] == "trtx-sys"))')" || return
    rm -rf "$headers.new"
    cp -R "$(dirname "$manifest")/TensorRT-Headers" "$headers.new" || return
    # The folder appears only when it is complete.
    rm -rf "$headers"
    mv "$headers.new" "$headers"
}

# Installs the package $2 and puts its libraries, flat, into folder $1.
fetch_library() {
    local folder="$libraries/$1" work="$libraries/$1.new"
    [ "$(cat "$folder/package" 2>/dev/null)" != "$2" ] || return 0
    rm -rf "$work" "$folder"
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$work/all" "$2" >&2 || return
    find "$work/all" -name '*.so.*' -exec mv {} "$work" \; || return
    rm -rf "$work/all"
    echo "$2" >"$work/package"
    mv "$work" "$folder"
}

[ -d "$headers" ] || fetch_headers >&2
mkdir -p "$libraries"
for one in $packages; do
    fetch_library "${one%%:*}" "${one#*:}"
done
printf 'export %s=%q\n' \
    TENSORRT_INCLUDE_DIR "$headers" \
    CENTERPOINT_TEST_TENSORRT_HEADERS "$headers" \
    CENTERPOINT_TEST_TENSORRT "$libraries"
