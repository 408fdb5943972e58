#!/usr/bin/env bash
# Makes the Debian package and tries it without installing it.
#
#   cargo build --release --workspace && tests/deb.sh    target/debian/centerpoint_*.deb
#   tests/deb.sh target/debug                            of another build
#
# The package has the node cp-ros2 if the build has it.
#
# What goes into the package is put together in target/package: what `cp-build install` installs, man pages, shell
# completions, the demo. `cargo deb` (cargo install cargo-deb) packs it as Cargo.toml says; without it only the tree is
# tried. Needs strip, gzip, and dpkg-deb to look into the package.
set -euo pipefail
cd "$(dirname "$0")/.."

build="${1:-target/release}"
stage="$PWD/target/package"

fail() {
    echo "tests/deb.sh: $*" >&2
    exit 1
}

# The subcommands of a program, by its help.
subcommands() {
    "$1" --help | sed -n '/^Commands:/,/^$/s/^  \([a-z][a-z-]*\) .*/\1/p' | grep -vx help || true
}

# Fills $stage.
stage() {
    rm -rf "$stage"
    DESTDIR="$stage" "$build/cp-build" install --prefix /usr --libdir lib >/dev/null
    strip --strip-unneeded "$stage"/usr/bin/* "$stage"/usr/lib/libcenterpoint.so
    strip --strip-debug "$stage/usr/lib/libcenterpoint.a"

    local share="$stage/usr/share" program name subcommand
    mkdir -p "$share/man/man1" "$share/bash-completion/completions" \
        "$share/zsh/vendor-completions" "$share/fish/vendor_completions.d"
    for program in "$stage"/usr/bin/*; do
        name="$(basename "$program")"
        "$program" --generate man >"$share/man/man1/$name.1"
        for subcommand in $(subcommands "$program"); do
            "$program" --generate man "$subcommand" >"$share/man/man1/$name-$subcommand.1"
        done
        "$program" --generate complete-bash >"$share/bash-completion/completions/$name"
        "$program" --generate complete-zsh >"$share/zsh/vendor-completions/_$name"
        "$program" --generate complete-fish >"$share/fish/vendor_completions.d/$name.fish"
    done
    gzip -9n "$share"/man/man1/*.1

    local doc="$share/doc/centerpoint"
    mkdir -p "$doc/examples"
    cp README.md "$doc"
    cp engines/demo/int8.plan calib/demo/frames/000003.bin "$doc/examples"
    chmod -R u=rwX,go=rX "$stage"
}

# Tries the tree of an installed package.
try() {
    local root="$1" name found
    local programs=(cp-infer cp-build cp-bench)
    [ ! -x "$build/cp-ros2" ] || programs+=(cp-ros2)
    for name in "${programs[@]}"; do
        "$root/usr/bin/$name" --version | grep -q "^$name " || fail "$name does not start"
        for found in "man/man1/$name.1.gz" "bash-completion/completions/$name" \
            "zsh/vendor-completions/_$name" "fish/vendor_completions.d/$name.fish"; do
            [ -s "$root/usr/share/$found" ] || fail "no $found"
        done
    done
    [ -s "$root/usr/share/man/man1/cp-build-quantize.1.gz" ] || fail "no page of a subcommand"
    local examples="$root/usr/share/doc/centerpoint/examples"
    found="$("$root/usr/bin/cp-infer" --engine "$examples/int8.plan" --pcd "$examples/000003.bin" --format json)"
    [[ "$found" == *'"boxes":[{"class":'* ]] || fail "no boxes in the demo frame: $found"
    "$root/usr/bin/cp-bench" --engine "$examples/int8.plan" --iterations 2 --duration 0 --warm-up 0 |
        grep -q '^Latency: min = ' || fail "cp-bench measures nothing"

    local library="$root/usr/lib/libcenterpoint.so" soname
    soname="$(objdump -p "$library" | awk '$1 == "SONAME" { print $2 }')"
    [ -n "$soname" ] || fail "the library has no SONAME"
    [ -L "$root/usr/lib/$soname" ] && [ -L "$library" ] || fail "no links of $soname"
    [ "$(readlink -f "$root/usr/lib/$soname")" = "$(readlink -f "$library")" ] || fail "$soname leads elsewhere"
    for name in include/centerpoint/centerpoint.h include/centerpoint/centerpoint.hpp lib/libcenterpoint.a \
        lib/pkgconfig/centerpoint.pc lib/cmake/centerpoint/centerpoint-config.cmake \
        share/doc/centerpoint/LICENSE-MIT share/doc/centerpoint/LICENSE-APACHE; do
        [ -s "$root/usr/$name" ] || fail "no $name"
    done
    if grep -rlF -e "$PWD" "$root/usr/include" "$root/usr/share" "$root/usr/lib/cmake" "$root/usr/lib/pkgconfig"; then
        fail "these files name the folder of the build"
    fi
}

stage
try "$stage"
if ! cargo deb --version >/dev/null 2>&1; then
    echo "skipped: no cargo-deb, the package itself was not made"
    exit
fi
cargo deb --quiet --no-build --no-strip --no-dbgsym --output target/debian/ >/dev/null
package="$(ls -t target/debian/centerpoint_*.deb | head -n 1)"
root="$(mktemp -d)"
trap 'rm -rf "$root"' EXIT
dpkg-deb --extract "$package" "$root"
try "$root"
# Nothing was forgotten, and nothing else was packed.
files() { (cd "$1" && find usr ! -type d ! -path 'usr/share/doc/centerpoint/c*' | sort); }
diff <(files "$stage") <(files "$root") || fail "the package holds other files"
dpkg-deb --info "$package"
if command -v lintian >/dev/null; then
    lintian --fail-on error "$package"
fi
du -h "$package"
