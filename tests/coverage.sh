#!/usr/bin/env bash
# Line coverage of src/cuda by the tests that need no GPU: with the emulation, and with the stand-in for the driver. Prints
# the lines that no test runs, then a table by file, and fails if less than 95 % of all lines run.
#
#   tests/coverage.sh [CARGO OPTIONS]
#
# Needs rustup's component llvm-tools. With CENTERPOINT_NVRTC it also runs the tests that need NVRTC.
set -euo pipefail
cd "$(dirname "$0")/.."

least=95
tools="$(dirname "$(find "$(rustc --print sysroot)/lib/rustlib" -name llvm-cov | head -1)")"
if [ ! -x "$tools/llvm-profdata" ]; then
    echo "no llvm-cov: rustup component add llvm-tools"
    exit 1
fi
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target/coverage}" CARGO_INCREMENTAL=0
work="$CARGO_TARGET_DIR/work"
rm -rf "$work"
mkdir -p "$work"

# Only the package itself is instrumented: the others would be slow.
cat >"$work/rustc" <<'END'
#!/usr/bin/env bash
if [ "${CARGO_PKG_NAME:-}" = centerpoint ]; then set -- "$@" -C instrument-coverage; fi
exec "$@"
END
chmod +x "$work/rustc"
export RUSTC_WORKSPACE_WRAPPER="$work/rustc"
# One file for each program; processes add to it.
export LLVM_PROFILE_FILE="$work/%1m.profraw"

cargo test --no-run --locked --message-format json --lib --bins --test it "$@" >"$work/built.json"
run() {
    cargo test --quiet --locked "$@"
}
run --lib "$@" -- cuda::
# Without what runs the network on the CPU for minutes: counters in its loops make it slow.
run --test it "$@" -- cuda:: capi::gpu:: detector:: mounting::a_device_moves \
    --skip a_cpu_plan_finds --skip cp_infer_gives --skip the_demo --skip sweeps_are_moved --skip memory::
if [ -n "${CENTERPOINT_NVRTC:-}" ]; then run --lib "$@" -- --ignored nvrtc; fi

"$tools/llvm-profdata" merge --sparse "$work"/*.profraw -o "$work/all.profdata"
objects=()
while IFS= read -r object; do
    objects+=(--object "$object")
done < <(grep -o '"executable":"[^"]*"' "$work/built.json" | cut -d'"' -f4 | sort -u)
"$tools/llvm-cov" export --format lcov --instr-profile "$work/all.profdata" "${objects[@]}" --sources src/cuda >"$work/lcov"

# Tests are at the end of a file, and are not counted.
awk -v least="$least" -v root="$PWD/" '
    /^SF:/ {
        file = substr($0, 4); end = 1e9; at = 0
        while ((getline line < file) > 0) { text[file, ++at] = line; if (line ~ /^#\[cfg\(test\)\]/ && end == 1e9) end = at }
        close(file); sub(root, "", file); names[++files] = file
    }
    /^DA:/ {
        split(substr($0, 4), part, ",")
        if (part[1] >= end) next
        lines[file]++; all++
        if (part[2] > 0) { run[file]++; ran++ }
        else printf "%s:%d: %s\n", file, part[1], text[root file, part[1]]
    }
    END {
        print "\n| file | lines | run | % |\n|---|---|---|---|"
        for (i = 1; i <= files; i++) {
            name = names[i]
            if (lines[name] > 0) printf "| %s | %d | %d | %.1f |\n", name, lines[name], run[name], 100 * run[name] / lines[name]
        }
        if (all == 0) { print "no lines were found"; exit 1 }
        printf "| all | %d | %d | %.1f |\n", all, ran, 100 * ran / all
        if (100 * ran < least * all) { printf "less than %d %%\n", least; exit 1 }
    }
' "$work/lcov"
