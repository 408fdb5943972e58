//! The documents: their links, and the reference pages compared with the code that they describe.
//!
//! Nothing here needs mdBook. Anchors follow the rule that GitHub and mdBook share.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use centerpoint::Model;
use centerpoint::internals::build::config::Config;
use centerpoint::model::ModelError;
use toml::{Table, Value};

use crate::common::repository;

const BOOK: &str = "docs/src";
/// Documents outside the book.
const OTHERS: [&str; 6] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "benches/README.md",
];
/// What a package registry and a hurried reader take.
const README_BYTES: usize = 8192;

/// Translated phrases that older texts had, with what to write instead.
const BANNED: [(&str, &str); 10] = [
    ("could not be had", "is missing, is invalid"),
    ("so manieth", "every n-th"),
    ("read over", "skip"),
    ("reads over", "skips"),
    ("passed over", "skipped"),
    ("from the begin of", "from the start of"),
    ("has not had", "did not receive"),
    ("is told by", "is recognised by"),
    ("tells of", "reports"),
    ("is no plan", "is not a plan"),
];
/// Folders whose texts are searched for them, besides the documents.
const SEARCHED: [&str; 7] = [
    ".github", "benches", "docs", "kernels", "ros2", "src", "tests",
];
/// These quote some.
const QUOTES: [&str; 2] = ["CONTRIBUTING.md", "tests/it/book.rs"];

fn read(path: &str) -> String {
    let text = std::fs::read_to_string(repository().join(path));
    text.unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The pages of the book, without its summary.
fn pages() -> Vec<String> {
    let entries = std::fs::read_dir(repository().join(BOOK)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut pages: Vec<String> = names
        .filter(|name| name.ends_with(".md") && name != "SUMMARY.md")
        .map(|name| format!("{BOOK}/{name}"))
        .collect();
    pages.sort();
    pages
}

fn documents() -> Vec<String> {
    let mut documents = pages();
    documents.push(format!("{BOOK}/SUMMARY.md"));
    documents.extend(OTHERS.map(String::from));
    documents
}

/// The blocks of code in a text, with their language, and the text without them.
fn split_code(text: &str) -> (Vec<(String, String)>, String) {
    let (mut blocks, mut prose) = (Vec::new(), String::new());
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => open = Some((language.to_owned(), String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some((_, code)), None) => *code += &format!("{line}\n"),
            (None, None) => prose += &format!("{line}\n"),
        }
    }
    assert!(open.is_none(), "a block of code does not end");
    (blocks, prose)
}

/// The `spans` of code in a text, and the text without them.
fn split_spans(prose: &str) -> (Vec<String>, String) {
    let mut parts = prose.split('`');
    let mut rest = parts.next().unwrap_or_default().to_owned();
    let mut spans = Vec::new();
    while let (Some(span), Some(after)) = (parts.next(), parts.next()) {
        spans.push(span.to_owned());
        rest += after;
    }
    (spans, rest)
}

/// Targets of the links and pictures in a text without code.
fn links(prose: &str) -> Vec<String> {
    let targets = prose.split("](").skip(1);
    let targets = targets.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned()));
    targets.collect()
}

/// The anchors of a page's headings.
fn anchors(path: &str) -> BTreeSet<String> {
    let (_, prose) = split_code(&read(path));
    let mut seen = BTreeMap::new();
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    let anchors = headings.map(|heading| {
        let slug: String = heading
            .trim_start_matches('#')
            .trim()
            .chars()
            .filter_map(|c| match c {
                ' ' => Some('-'),
                '-' | '_' => Some(c),
                c if c.is_alphanumeric() => Some(c.to_ascii_lowercase()),
                _ => None,
            })
            .collect();
        let count = seen.entry(slug.clone()).or_insert(0);
        *count += 1;
        match *count {
            1 => slug,
            n => format!("{slug}-{}", n - 1),
        }
    });
    anchors.collect()
}

/// `target` as seen from the document at `path`: the path from the repository's root, and the anchor.
fn resolve(path: &str, target: &str) -> (String, Option<String>) {
    let (file, anchor) = match target.split_once('#') {
        Some((file, anchor)) => (file, Some(anchor.to_owned())),
        None => (target, None),
    };
    if file.is_empty() {
        return (path.to_owned(), anchor);
    }
    let mut whole = PathBuf::from(path);
    whole.pop();
    for part in Path::new(file).components() {
        match part.as_os_str().to_str().unwrap() {
            ".." => assert!(whole.pop(), "{path}: {target} leaves the repository"),
            part => whole.push(part),
        }
    }
    (whole.to_str().unwrap().to_owned(), anchor)
}

#[test]
fn every_link_leads_somewhere() {
    let mut checked = 0;
    for path in documents() {
        let (_, prose) = split_code(&read(&path));
        for target in links(&split_spans(&prose).1) {
            if target.starts_with("https://") {
                continue;
            }
            let (file, anchor) = resolve(&path, &target);
            assert!(
                repository().join(&file).exists(),
                "{path}: {target}: there is no {file}"
            );
            // mdBook copies its own folder only.
            assert!(
                !path.starts_with(BOOK) || file.starts_with(BOOK),
                "{path}: {target} leaves the book"
            );
            if let Some(anchor) = anchor {
                assert!(
                    anchors(&file).contains(&anchor),
                    "{path}: {target}: {file} has {:?}",
                    anchors(&file)
                );
            }
            checked += 1;
        }
    }
    assert!(checked > 80, "only {checked} links were found");
}

#[test]
fn every_page_is_in_the_summary() {
    let listed: BTreeSet<String> = links(&read(&format!("{BOOK}/SUMMARY.md")))
        .iter()
        .map(|name| format!("{BOOK}/{name}"))
        .collect();
    assert_eq!(listed, pages().into_iter().collect());
}

#[test]
fn the_readme_is_short_and_begins_with_its_picture() {
    let readme = read("README.md");
    assert!(readme.len() <= README_BYTES, "{} bytes", readme.len());
    let picture = readme.lines().position(|line| line.starts_with("!["));
    assert!(picture.is_some_and(|line| line < 12), "{picture:?}");
}

#[test]
fn paths_that_documents_name_exist() {
    let documents = pages().into_iter().chain(
        [
            "ARCHITECTURE.md",
            "CONTRIBUTING.md",
            "README.md",
            "SECURITY.md",
        ]
        .map(String::from),
    );
    let mut checked = 0;
    for path in documents {
        let (_, prose) = split_code(&read(&path));
        for span in split_spans(&prose).0 {
            let roots = [
                ".cargo/",
                ".ci/",
                "benches/",
                "calib/",
                "docs/",
                "engines/",
                "examples/",
                "kernels/",
                "ros2/",
                "src/",
                "tests/",
            ];
            let is_path = roots.iter().any(|root| span.starts_with(root));
            if is_path && !span.contains(['*', ' ']) {
                assert!(
                    repository().join(&span).exists(),
                    "{path}: there is no {span}"
                );
                checked += 1;
            }
        }
    }
    assert!(checked > 10, "only {checked} paths were found");
}

/// Adds the text files in a folder, and in those within it.
fn add_texts(folder: &str, texts: &mut Vec<String>) {
    for entry in std::fs::read_dir(repository().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().into_string().unwrap());
        let extension = path.rsplit('.').next().unwrap_or_default();
        if entry.file_type().unwrap().is_dir() {
            add_texts(&path, texts);
        } else if ["md", "rs", "py", "sh", "cu", "cuh", "h", "hpp", "cpp"].contains(&extension) {
            texts.push(path);
        }
    }
}

#[test]
fn texts_have_no_translated_phrases() {
    let mut texts = OTHERS.map(String::from).to_vec();
    for folder in SEARCHED {
        add_texts(folder, &mut texts);
    }
    for path in texts.iter().filter(|path| !QUOTES.contains(&&***path)) {
        let text = read(path);
        let words: Vec<&str> = text.split_whitespace().collect();
        // A comment that continues on the next line has its marks there.
        let words = words
            .into_iter()
            .filter(|word| !["//", "///", "//!", "#", "*"].contains(word));
        let text = format!(" {} ", words.collect::<Vec<_>>().join(" "));
        for (phrase, instead) in BANNED {
            let found = text.contains(&format!(" {phrase}"));
            assert!(!found, "{path}: \"{phrase}\": write \"{instead}\"");
        }
    }
}

/// The rows of the table below a heading, without its head; cells are trimmed.
fn rows(page: &str, heading: &str) -> Vec<Vec<String>> {
    let (_, prose) = split_code(page);
    let mut lines = prose.lines().skip_while(|line| *line != heading).skip(1);
    let own: Vec<&str> = lines
        .by_ref()
        .take_while(|line| !line.starts_with('#'))
        .collect();
    let table = own.iter().filter(|line| line.starts_with('|')).skip(2);
    let rows: Vec<Vec<String>> = table
        .map(|line| {
            let cells = line.trim_matches('|').split('|');
            cells.map(|cell| cell.trim().to_owned()).collect()
        })
        .collect();
    assert!(!rows.is_empty(), "no table below \"{heading}\"");
    rows
}

/// The first code span of a cell.
fn span(cell: &str) -> String {
    split_spans(cell).0.first().cloned().unwrap_or_default()
}

/// A value in TOML.
fn literal(text: &str) -> Option<Value> {
    let table: Table = toml::from_str(&format!("value = {text}")).ok()?;
    table.get("value").cloned()
}

/// The names in a parser's message after "expected": ``expected one of `a`, `b` ``.
fn expected(message: &str) -> BTreeSet<String> {
    let list = message.rsplit_once("expected ").unwrap_or_default().1;
    split_spans(list).0.into_iter().collect()
}

/// Calls `edit` with each table that `path` leads to, through arrays, too.
fn edit_tables(table: &mut Table, path: &[&str], edit: &mut dyn FnMut(&mut Table)) {
    let Some((first, rest)) = path.split_first() else {
        return edit(table);
    };
    match table.get_mut(*first) {
        Some(Value::Table(inner)) => edit_tables(inner, rest, edit),
        Some(Value::Array(inner)) => {
            for table in inner.iter_mut().filter_map(Value::as_table_mut) {
                edit_tables(table, rest, edit);
            }
        }
        _ => panic!("the example has no {first}"),
    }
}

fn model(table: &Table) -> Result<Model, ModelError> {
    Model::parse(&toml::to_string(table).unwrap(), Path::new("model.toml"))
}

/// The headings of the reference with the tables that they describe.
const MODEL_TABLES: [(&str, &[&str]); 9] = [
    ("## Top level", &[]),
    ("## points", &["points"]),
    ("## grid", &["grid"]),
    ("## pfn", &["pfn"]),
    ("## head", &["head"]),
    ("## head.tasks", &["head", "tasks"]),
    ("## decode", &["decode"]),
    ("## nms", &["nms"]),
    ("## remap", &["remap"]),
];

#[test]
fn the_reference_of_model_toml_agrees_with_the_code() {
    let page = read("docs/src/model-toml.md");
    let (blocks, _) = split_code(&page);
    let example: Table = toml::from_str(&blocks[0].1).unwrap();
    let whole = model(&example).unwrap();
    let (mut defaults, mut variants) = (0, 0);
    for (heading, path) in MODEL_TABLES {
        // The example with one key set, or taken out, wherever it is.
        let edited = |key: &str, value: Option<&Value>| {
            let mut table = example.clone();
            edit_tables(&mut table, path, &mut |table| {
                if let (Some(_), Some(value)) = (table.remove(key), value) {
                    table.insert(key.into(), value.clone());
                }
            });
            table
        };
        let rows = rows(&page, heading);
        let keys: BTreeSet<String> = rows.iter().map(|row| span(&row[0])).collect();
        let mut unknown = example.clone();
        edit_tables(&mut unknown, path, &mut |table| {
            table.insert("no_such_key".into(), 1.into());
        });
        let message = model(&unknown).unwrap_err().to_string();
        assert_eq!(keys, expected(&message), "{heading}: {message}");

        for row in &rows {
            let [key, default, values, _] = &row[..] else {
                panic!("{heading}: {row:?}");
            };
            let key = span(key);
            let without = edited(&key, None);
            if without == example {
                assert!(
                    ["bands", "groups"].contains(&&*key),
                    "no {key} in the example"
                );
                continue;
            }
            let absent = model(&without);
            let value = literal(default.trim_matches('`')).filter(|_| default.starts_with('`'));
            if default.starts_with("required") {
                let message = absent.unwrap_err().to_string();
                assert!(message.contains(&key), "{heading} {key}: {message}");
            } else if let Some(value) = value {
                let given = model(&edited(&key, Some(&value))).unwrap();
                assert_eq!(absent.unwrap(), given, "{heading} {key}: not {default}");
                defaults += 1;
            } else if default.starts_with("from") || default.contains(" for each ") {
                // Derived values: the example has the very ones.
                assert_eq!(absent.unwrap(), whole, "{heading} {key}");
            } else {
                absent.unwrap();
            }
            let wrong = model(&edited(&key, Some(&"no_such_value".into())));
            let message = wrong.map_or_else(|error| error.to_string(), |_| String::new());
            if message.contains("unknown variant") {
                let values = split_spans(values).0.into_iter().collect();
                assert_eq!(expected(&message), values, "{heading} {key}: {message}");
                variants += 1;
            }
        }
    }
    assert_eq!((defaults, variants), (13, 7));

    // What the example cannot have at once.
    let bands: Table = toml::from_str(&blocks[1].1).unwrap();
    let mut other = example.clone();
    edit_tables(&mut other, &["decode"], &mut |decode| {
        decode.remove("score");
        decode.extend(bands.clone());
    });
    edit_tables(&mut other, &["nms"], &mut |step| {
        step.remove("scope");
        let groups = literal(r#"[["car", "truck"], ["pedestrian"]]"#).unwrap();
        step.insert("groups".into(), groups);
    });
    assert_eq!(model(&other).unwrap().decode.bands.len(), 2);
}

/// The leaves of a table by their dotted keys.
fn flat(table: &Table) -> BTreeMap<String, Value> {
    let mut leaves = BTreeMap::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) => {
                let inner = flat(inner).into_iter();
                leaves.extend(inner.map(|(rest, value)| (format!("{key}.{rest}"), value)));
            }
            value => {
                leaves.insert(key.clone(), value.clone());
            }
        }
    }
    leaves
}

#[test]
fn the_reference_of_quantize_toml_agrees_with_the_code() {
    let page = read("docs/src/quantize-toml.md");
    let (blocks, _) = split_code(&page);
    let default = flat(&Table::try_from(Config::default()).unwrap());
    assert_eq!(flat(&toml::from_str(&blocks[0].1).unwrap()), default);
    let rows = rows(&page, "# quantize.toml");
    // An empty table has all keys.
    let complete: Config = toml::from_str("[qat]").unwrap();
    let default = flat(&Table::try_from(complete).unwrap());
    let documented: BTreeMap<String, Value> = rows
        .iter()
        .map(|row| (span(&row[0]), literal(&span(&row[1])).unwrap()))
        .collect();
    assert_eq!(documented, default);
    let mut variants = 0;
    for row in &rows {
        let key = span(&row[0]);
        if !default[&key].is_str() {
            continue;
        }
        let text = match key.rsplit_once('.') {
            Some((table, key)) => format!("[{table}]\n{key} = \"no_such_value\""),
            None => format!("{key} = \"no_such_value\""),
        };
        let message = toml::from_str::<Config>(&text).unwrap_err().to_string();
        let values = split_spans(&row[2]).0.into_iter().collect();
        assert_eq!(expected(&message), values, "{key}: {message}");
        variants += 1;
    }
    assert_eq!(variants, 11);
}

/// The help of a program or of a subcommand, such as `cp-build eval`.
fn help(command: &str) -> String {
    let mut words = command.split(' ');
    let program = match words.next() {
        Some("cp-infer") => env!("CARGO_BIN_EXE_cp-infer"),
        Some("cp-bench") => env!("CARGO_BIN_EXE_cp-bench"),
        Some("cp-build") => env!("CARGO_BIN_EXE_cp-build"),
        _ => panic!("{command}: no such program"),
    };
    let output = Command::new(program).args(words).arg("--help").output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

/// The long options that a help lists. Deeper lines are descriptions.
fn options(help: &str) -> BTreeSet<String> {
    let lines = help.lines().filter(|line| {
        let indent = line.len() - line.trim_start().len();
        (2..=6).contains(&indent) && line.trim_start().starts_with('-')
    });
    let words = lines.flat_map(str::split_whitespace);
    words
        .filter_map(|word| word.strip_prefix("--").map(String::from))
        .filter(|name| name != "help" && name != "version")
        .collect()
}

/// The options that the page of commands lists, by command.
fn documented_options() -> BTreeMap<String, BTreeSet<String>> {
    let page = read("docs/src/commands.md");
    let names = |section: &str| -> BTreeSet<String> {
        let rows = rows(&page, &format!("## {section}"));
        let names = rows.iter().map(|row| {
            let option = span(&row[0]);
            let name = option.split(' ').next().unwrap().strip_prefix("--");
            name.unwrap_or_else(|| panic!("{section}: {option}"))
                .to_owned()
        });
        names.collect()
    };
    let shared = names("Input options");
    let sections = page.split("\n## ").skip(1);
    let commands = sections.filter_map(|section| {
        let (command, text) = section.split_once('\n')?;
        let mut own = names(command);
        if text.contains("(#input-options)") {
            own.extend(shared.iter().cloned());
        }
        (command != "Input options").then(|| (command.to_owned(), own))
    });
    commands.collect()
}

#[test]
fn the_reference_of_commands_lists_every_option() {
    let documented = documented_options();
    let text = help("cp-build");
    let subcommands = text
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        // Descriptions that wrap continue on lines with a deeper indentation.
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(|name| format!("cp-build {name}"));
    let programs = ["cp-bench", "cp-infer", "cp-ros2"].map(String::from);
    let commands: BTreeSet<String> = subcommands.chain(programs).collect();
    assert_eq!(
        documented.keys().cloned().collect::<BTreeSet<_>>(),
        commands
    );
    // The node is a program of another package.
    for (command, names) in documented.iter().filter(|(name, _)| *name != "cp-ros2") {
        assert_eq!(*names, options(&help(command)), "{command}");
    }
}

/// The commands of ours in a block of shell code: what is run, and the options that it is given.
fn commands(code: &str) -> Vec<(String, Vec<String>)> {
    let code = code.replace("\\\n", " ");
    let lines = code
        .lines()
        .map(|line| line.split(" #").next().unwrap_or_default());
    let simple = lines.flat_map(|line| line.split("&&").flat_map(|part| part.split('|')));
    let mut found = Vec::new();
    for command in simple {
        let command = command
            .replace("cargo run --release -p centerpoint-ros2 --", "cp-ros2")
            .replace("cargo run --release --", "cp-infer");
        let mut words = command.split_whitespace().peekable();
        while words
            .next_if(|word| *word == "sudo" || word.contains('='))
            .is_some()
        {}
        let Some(program) = words.next().and_then(|word| word.rsplit('/').next()) else {
            continue;
        };
        if !program.starts_with("cp-") {
            continue;
        }
        let mut name = program.to_owned();
        if program == "cp-build" && words.peek().is_some_and(|word| !word.starts_with('-')) {
            name += &format!(" {}", words.next().unwrap_or_default());
        }
        let options = words.take_while(|word| *word != "--ros-args");
        let options = options.filter_map(|word| word.strip_prefix("--"));
        let options = options.map(|word| word.split('=').next().unwrap_or_default().to_owned());
        found.push((name, options.collect()));
    }
    found
}

#[test]
fn commands_in_documents_have_options_that_exist() {
    let documented = documented_options();
    let mut checked = 0;
    for path in documents() {
        let (blocks, _) = split_code(&read(&path));
        for (_, code) in blocks.iter().filter(|(language, _)| language == "sh") {
            for (command, given) in commands(code) {
                if given == ["generate"] {
                    continue;
                }
                let known = documented.get(&command);
                let known = known.unwrap_or_else(|| panic!("{path}: there is no {command}"));
                for option in given {
                    assert!(
                        known.contains(&option),
                        "{path}: {command} has no --{option}"
                    );
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 100, "only {checked} options were found");
}
