//! The public face: counts the names that users see, and those in `internals`, which programs and tests use.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::common::repository;
use crate::layers::{code, expand, list};

/// Most documented names. They should be about 60; an engine of the user's own needs another 20.
const MOST_PUBLIC: usize = 85;
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
    let root = repository();
    let text = std::fs::read_to_string(root.join("src/internals.rs")).unwrap();
    let mut names = BTreeSet::new();
    for part in code(&text).split("pub use crate::").skip(1) {
        expand(part.split(';').next().unwrap(), Vec::new(), &mut names);
    }
    let words = |folders: &[&str]| -> BTreeMap<String, usize> {
        let mut files: Vec<PathBuf> = Vec::new();
        for folder in folders {
            list(&root.join(folder), &mut files);
        }
        let mut words = BTreeMap::new();
        for file in files {
            let code = code(&std::fs::read_to_string(file).unwrap());
            for word in code.split(|c: char| !(c.is_alphanumeric() || c == '_')) {
                *words.entry(word.to_owned()).or_default() += 1;
            }
        }
        words
    };
    let (programs, tests) = (
        words(&["src/bin", "ros2/src"]),
        words(&["tests", "ros2/tests", "benches"]),
    );
    let name = |path: &Vec<String>| path.last().unwrap().clone();
    let unused: Vec<_> = names
        .iter()
        .filter(|path| !programs.contains_key(&name(path)) && !tests.contains_key(&name(path)))
        .collect();
    assert!(unused.is_empty(), "nothing uses {unused:?}");
    let for_tests: Vec<_> = names
        .iter()
        .filter(|path| !programs.contains_key(&name(path)))
        .collect();
    println!(
        "{} names, {} of them for tests only",
        names.len(),
        for_tests.len()
    );
    assert!(
        names.len() > 100 && for_tests.len() <= MOST_FOR_TESTS,
        "{for_tests:?}"
    );
}
