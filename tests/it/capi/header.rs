//! The headers in C and C++, and their functions in the library's symbols by `nm`.

use std::collections::BTreeSet;
use std::process::Command;

use super::{built, compilers, fresh, include, joined, run, tool};

/// The functions declared by the header: names outside comments that start with `cp_` and are followed by a parenthesis.
fn declared() -> BTreeSet<String> {
    let text = std::fs::read_to_string(include().join("centerpoint/centerpoint.h")).unwrap();
    let mut code = String::new();
    for (part, piece) in text.split("/*").enumerate() {
        let piece = match part {
            0 => piece,
            _ => piece.split_once("*/").unwrap().1,
        };
        code.push_str(piece);
    }
    code.match_indices("cp_")
        .filter_map(|(at, _)| {
            let rest = &code[at..];
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_')?;
            rest[end..].starts_with('(').then(|| rest[..end].to_owned())
        })
        .collect()
}

#[test]
fn the_headers_are_c99_and_cpp17() {
    let [cc, cxx] = compilers();
    let folder = fresh("capi-standards");
    for (compiler, standards, source, header) in [
        (&cc, &["c99", "c11"][..], "c.c", "centerpoint.h"),
        (&cxx, &["c++11", "c++17"][..], "c.cpp", "centerpoint.h"),
        (&cxx, &["c++17", "c++20"][..], "cpp.cpp", "centerpoint.hpp"),
    ] {
        let source = folder.join(source);
        // Included twice, and without duplicate definitions in a program.
        let text = format!(
            "#include <centerpoint/{header}>\n#include <centerpoint/{header}>\nint main(void) {{ cp_cloud cloud; CP_INIT(cloud); return (int)cloud.width; }}\n"
        );
        std::fs::write(
            &source,
            text.replace(
                "(int)",
                if header.ends_with("hpp") {
                    "0 * "
                } else {
                    "(int)"
                },
            ),
        )
        .unwrap();
        for standard in standards {
            run(Command::new(compiler)
                .arg(format!("-std={standard}"))
                .args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only"])
                .arg(joined("-I", include()))
                .arg(&source));
        }
    }
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "the library is installed on Linux only"
)]
fn the_library_exports_what_the_header_declares_and_has_a_soname() {
    let (nm, objdump) = (tool("NM", "nm"), tool("OBJDUMP", "objdump"));
    let library = built().join("libcenterpoint.so");
    let symbols = run(Command::new(nm)
        .args(["-D", "--defined-only"])
        .arg(&library));
    let symbols = String::from_utf8(symbols.stdout).unwrap();
    let exported: BTreeSet<String> = symbols
        .lines()
        .map(|line| line.rsplit(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(exported, declared());
    let parts = run(Command::new(objdump).arg("-p").arg(&library));
    let parts = String::from_utf8(parts.stdout).unwrap();
    let soname = parts.lines().find(|line| line.contains("SONAME")).unwrap();
    assert_eq!(
        soname.split_whitespace().last(),
        Some("libcenterpoint.so.0")
    );
}
