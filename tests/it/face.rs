//! The public face: counts the names that users see, and those in `internals`, which programs and tests use.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::common::repository;
use crate::layers::{code, expand, list};

/// Most documented names. They should be about 60; an engine of the user's own needs another 20, and the mounting of sensors 5.
const MOST_PUBLIC: usize = 88;
/// Most names that only tests and benches need.
const MOST_FOR_TESTS: usize = 150;

#[test]
fn the_public_face_stays_small() {
    let source = repository().join("src");
    let mut names = BTreeSet::new();
    page(&source.join("lib.rs"), &source, &mut names);
    println!("{} public names: {names:?}", names.len());
    assert!(
        names.contains("Detector") && names.contains("line"),
        "{names:?}"
    );
    assert!(names.len() <= MOST_PUBLIC, "{names:?}");
}

/// Adds the names that a page of the documentation shows, and those of its public modules, in `folder`.
fn page(file: &Path, folder: &Path, names: &mut BTreeSet<String>) {
    let code = code(&std::fs::read_to_string(file).unwrap());
    let mut hidden = false;
    let mut rest = &code[..];
    while let Some((line, after)) = rest.split_once('\n') {
        rest = after;
        if line.starts_with("#[") {
            hidden |= line == "#[doc(hidden)]";
            continue;
        }
        let shown = !std::mem::take(&mut hidden);
        let Some(item) = line.strip_prefix("pub ").filter(|_| shown) else {
            continue;
        };
        if let Some(module) = item.strip_prefix("mod ") {
            let module = module.trim_end_matches(';');
            let flat = folder.join(format!("{module}.rs"));
            let inner = folder.join(module);
            let file = if flat.exists() {
                flat
            } else {
                inner.join("mod.rs")
            };
            page(&file, &inner, names);
        } else if let Some(start) = item.strip_prefix("use ") {
            let all = format!("{start}\n{rest}");
            let mut paths = BTreeSet::new();
            expand(all.split(';').next().unwrap(), Vec::new(), &mut paths);
            names.extend(paths.into_iter().filter_map(|mut path| path.pop()));
        } else {
            let mut words = item.split(|c: char| !(c.is_alphanumeric() || c == '_'));
            let name = words.nth(1).unwrap_or_default();
            names.insert(name.to_owned());
        }
    }
}

#[test]
fn internals_are_used_and_few() {
    let names = internals();
    let (programs, tests) = (
        imported(&["src/bin", "ros2/src"]),
        imported(&["tests", "ros2/tests", "benches"]),
    );
    // Whoever imports a module may use all of it.
    let uses = |imports: &BTreeSet<Vec<String>>, name: &Vec<String>| {
        imports.iter().any(|import| name.starts_with(import))
    };
    let (by_programs, others): (Vec<_>, Vec<_>) =
        names.iter().partition(|name| uses(&programs, name));
    let unused: Vec<_> = others.iter().filter(|name| !uses(&tests, name)).collect();
    assert!(unused.is_empty(), "nothing uses {unused:?}");
    println!(
        "{} names for programs, {} for tests only",
        by_programs.len(),
        others.len()
    );
    assert!(
        by_programs.len() > 10 && others.len() <= MOST_FOR_TESTS,
        "{others:?}"
    );
}

/// The names of `internals`, with the modules that they are in.
fn internals() -> BTreeSet<Vec<String>> {
    let text = std::fs::read_to_string(repository().join("src/internals.rs")).unwrap();
    let mut names = BTreeSet::new();
    let mut modules: Vec<String> = Vec::new();
    let code = code(&text);
    let mut rest = &code[..];
    while let Some((line, after)) = rest.split_once('\n') {
        rest = after;
        let line = line.trim();
        if let Some(module) = line.strip_prefix("pub mod ") {
            modules.push(module.trim_end_matches(" {").to_owned());
        } else if line == "}" {
            modules.pop();
        } else if let Some(start) = line.strip_prefix("pub use ") {
            let (item, after) = rest.split_at(if start.ends_with(';') {
                0
            } else {
                rest.find(';').unwrap() + 1
            });
            rest = after;
            let mut paths = BTreeSet::new();
            expand(&format!("{start}{item}"), Vec::new(), &mut paths);
            for mut path in paths {
                names.insert([&modules[..], &[path.pop().unwrap()]].concat());
            }
        }
    }
    names
}

/// The paths in `internals` that the files of some folders name.
fn imported(folders: &[&str]) -> BTreeSet<Vec<String>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for folder in folders {
        list(&repository().join(folder), &mut files);
    }
    let mut paths = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(file).unwrap();
        for part in text.split("centerpoint::internals::").skip(1) {
            expand(part, Vec::new(), &mut paths);
        }
    }
    paths
}
