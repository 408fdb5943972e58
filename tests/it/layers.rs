//! Imports only go down: reads the `use` lines and the paths of the code without its tests, and fails on one that
//! climbs, or on a circle of files within a module.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The modules of the crate, top to bottom: each may use those after it, never one before it.
const LAYERS: &[&str] = &[
    // Names for programs and tests.
    "internals",
    // Arguments, results, errors of everything below.
    "cli",
    "capi",
    "error",
    // Measurements.
    "bench",
    // The offline side and the edges.
    "build",
    "eval",
    "synth",
    "results",
    "draw",
    "bag",
    // A plan with its stages and its engine.
    "detector",
    "stages",
    "engine",
    // Stages and devices.
    "cuda",
    "cpu",
    // What a plan holds.
    "plan",
    "program",
    // What everything speaks of.
    "detection",
    "deadline",
    "model",
    "points",
    "map",
    "boxes",
    "files",
    "chain",
    "elementary",
];

/// A source file: its module's path, and the paths of the crate that its code names.
struct Source {
    module: Vec<String>,
    uses: BTreeSet<Vec<String>>,
}

#[test]
fn imports_only_go_down() {
    let sources = read(&crate::common::repository().join("src"));
    let known: BTreeSet<&str> = sources.iter().map(|s| top(&s.module)).collect();
    let listed: BTreeSet<&str> = LAYERS.iter().copied().collect();
    let root = BTreeSet::from(["lib", "bin"]);
    let unlisted: Vec<_> = known
        .difference(&listed)
        .filter(|m| !root.contains(*m))
        .collect();
    assert!(unlisted.is_empty(), "modules without a layer: {unlisted:?}");

    let rank = |module: &str| LAYERS.iter().position(|layer| *layer == module);
    let mut climbs = Vec::new();
    for source in &sources {
        let from = top(&source.module);
        for path in &source.uses {
            let to = top(path);
            if let (Some(above), Some(below)) = (rank(from), rank(to))
                && above > below
            {
                climbs.push(format!(
                    "{} uses {}",
                    source.module.join("::"),
                    path.join("::")
                ));
            }
        }
    }
    assert!(
        climbs.is_empty(),
        "imports that climb:\n{}",
        climbs.join("\n")
    );
}

#[test]
fn files_of_a_module_form_no_circle() {
    let sources = read(&crate::common::repository().join("src"));
    let modules: BTreeSet<&Vec<String>> = sources.iter().map(|s| &s.module).collect();
    // A module and its submodules may use each other: the parent is what they share.
    let file_of = |path: &[String]| {
        let mut path = path.to_vec();
        while !path.is_empty() && !modules.contains(&path) {
            path.pop();
        }
        path
    };
    let mut edges: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
    for source in &sources {
        for path in &source.uses {
            let to = file_of(path);
            let related = to.starts_with(&source.module) || source.module.starts_with(&to);
            if !to.is_empty() && !related {
                edges.entry(source.module.clone()).or_default().insert(to);
            }
        }
    }
    let circles: Vec<String> = edges
        .keys()
        .filter(|start| reaches(&edges, start))
        .map(|module| module.join("::"))
        .collect();
    assert!(circles.is_empty(), "files in circles: {circles:?}");
}

/// Whether a file is reached from itself.
fn reaches(edges: &BTreeMap<Vec<String>, BTreeSet<Vec<String>>>, start: &Vec<String>) -> bool {
    let mut seen = BTreeSet::new();
    let mut open = vec![start];
    while let Some(file) = open.pop() {
        for next in edges.get(file).into_iter().flatten() {
            if next == start {
                return true;
            }
            if seen.insert(next) {
                open.push(next);
            }
        }
    }
    false
}

#[test]
fn the_reader_sees_imports_and_paths() {
    let text = "//! crate::comment\nuse crate::{a::{B, c::D}, e};\nuse super::f::G;\nfn h() { crate::i::j(\"crate::k\") }\n\
                #[cfg(test)]\nmod tests { use crate::l; }\n";
    let module = ["m".to_owned(), "n".to_owned()];
    let uses: Vec<String> = uses(text, &module).iter().map(|p| p.join("::")).collect();
    assert_eq!(uses, ["a::B", "a::c::D", "e", "i::j", "m::f::G"]);
}

fn top(path: &[String]) -> &str {
    path.first().map_or("lib", String::as_str)
}

/// All files of the library but those of tests.
fn read(root: &Path) -> Vec<Source> {
    let mut files = Vec::new();
    list(root, &mut files);
    let mut sources = Vec::new();
    for file in files {
        let path = file.strip_prefix(root).unwrap().with_extension("");
        let mut module: Vec<String> = path
            .iter()
            .map(|part| part.to_str().unwrap().to_owned())
            .collect();
        if ["mod", "lib"].contains(&module.last().unwrap().as_str()) {
            module.pop();
        }
        if module
            .first()
            .is_some_and(|first| ["bin", "testing"].contains(&first.as_str()))
            || ["tests", "testing"].contains(&module.last().map_or("", String::as_str))
        {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        sources.push(Source {
            uses: uses(&text, &module),
            module,
        });
    }
    assert!(sources.len() > 100, "{}", sources.len());
    sources
}

pub(crate) fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            list(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// The crate's paths that a file names outside of comments, texts and tests.
fn uses(text: &str, module: &[String]) -> BTreeSet<Vec<String>> {
    let code = code(text);
    let mut found = BTreeSet::new();
    let mut rest = &code[..];
    while let Some(at) = rest.find(|c: char| c.is_alphanumeric() || c == '_') {
        let before = rest[..at].chars().next_back();
        let tail = &rest[at..];
        let end = tail.find(|c: char| !(c.is_alphanumeric() || c == '_'));
        let (word, after) = tail.split_at(end.unwrap_or(tail.len()));
        rest = after;
        let base = match word {
            "crate" => Vec::new(),
            "super" => module[..module.len().saturating_sub(1)].to_vec(),
            _ => continue,
        };
        if before == Some(':') || !after.starts_with("::") {
            continue;
        }
        expand(&after[2..], base, &mut found);
    }
    found
}

/// Adds the paths that begin with `base` and go on with `text`: `a::b`, `super::a`, or `{a, b::{c}}`.
pub(crate) fn expand(text: &str, mut base: Vec<String>, found: &mut BTreeSet<Vec<String>>) {
    let text = text.trim_start();
    if text.is_empty() {
        // After a trailing comma.
        return;
    }
    if let Some(list) = text.strip_prefix('{') {
        let (mut level, mut start) = (0, 0);
        for (at, c) in list.char_indices() {
            match c {
                '{' => level += 1,
                '}' if level == 0 => {
                    expand(&list[start..at], base, found);
                    return;
                }
                '}' => level -= 1,
                ',' if level == 0 => {
                    expand(&list[start..at], base.clone(), found);
                    start = at + 1;
                }
                _ => {}
            }
        }
        return;
    }
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_'));
    let (word, after) = text.split_at(end.unwrap_or(text.len()));
    match word {
        "super" => {
            base.pop();
        }
        "" | "self" => {}
        _ => base.push(word.to_owned()),
    }
    match after.strip_prefix("::") {
        Some(after) => expand(after, base, found),
        None if base.is_empty() => {}
        None => {
            found.insert(base);
        }
    }
}

/// The text without comments, string literals, and the test module at its end.
pub(crate) fn code(text: &str) -> String {
    let text = match text.find("#[cfg(test)]\nmod ") {
        Some(at)
            if text[at..]
                .lines()
                .nth(1)
                .is_some_and(|l| l.ends_with('{') || l.ends_with('}')) =>
        {
            &text[..at]
        }
        _ => text,
    };
    let mut out = String::new();
    for line in text.lines() {
        let line = line.split("//").next().unwrap_or("");
        let mut inside = false;
        let mut escaped = false;
        for c in line.chars() {
            match c {
                '"' if !escaped => inside = !inside,
                _ if !inside => out.push(c),
                _ => {}
            }
            escaped = c == '\\' && !escaped;
        }
        out.push('\n');
    }
    out
}
