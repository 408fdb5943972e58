#!/usr/bin/env bash
# Builds the stand-in for NVIDIA's driver and compiler (tests/standin/) and prints the folder with the libraries:
#
#   LD_LIBRARY_PATH="$(tests/standin.sh)" cp-infer --device cuda …
#
# Arguments go to cargo build, such as --release.
set -euo pipefail
cd "$(dirname "$0")/.."

library="$(cargo build --quiet --locked --package standin --message-format json "$@" |
    grep -o '"[^"]*/libstandin\.so"' | tail -1 | tr -d '"')"
folder="$(dirname "$library")/standin"
mkdir -p "$folder"
for name in libcuda.so libcuda.so.1 libnvrtc.so.12 libnvrtc.so.13; do
    # Replaced as a whole: a program may be running with it.
    cp "$library" "$folder/.$name"
    mv "$folder/.$name" "$folder/$name"
done
echo "$folder"
